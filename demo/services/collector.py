"""An OTLP collector: what OpenTelemetry's own stubs take over gRPC, a JSON line for each span."""
import json
import sys
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Spans(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, log: str):
        self.log = open(log, "a", buffering=1)

    def Export(self, request, context):
        for resource in request.resource_spans:
            service = text(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    print(json.dumps({
                        "from": context.peer(), "service": service, "name": span.name,
                        "trace": span.trace_id.hex(), "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(), "nanoseconds":
                        span.end_time_unix_nano - span.start_time_unix_nano,
                        "attributes": text(span.attributes)}), file=self.log)
        return trace_service_pb2.ExportTraceServiceResponse()


def text(attributes) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in attributes}


address, log = sys.argv[1:]
server = grpc.server(futures.ThreadPoolExecutor(2))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Spans(log), server)
if server.add_insecure_port(address) == 0:
    sys.exit(f"cannot listen at {address}")
server.start()
server.wait_for_termination()

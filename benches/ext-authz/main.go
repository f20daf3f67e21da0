// Command ext-authz serves Envoy's ext_authz API (v3, gRPC) with a rego policy that OPA evaluates.
// It stands in for OPA with its Envoy plugin in `make bench`, and is used by nothing else.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9191", "address to serve ext_authz at")
	decisions := flag.String("decisions", "", "file that the decision log is appended to")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	if err := run(ctx, *listen, *decisions); err != nil {
		fmt.Fprintf(os.Stderr, "ext-authz: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, address, decisions string) error {
	log, err := os.OpenFile(decisions, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("decision log: %w", err)
	}
	defer log.Close()
	authorizer, err := newAuthorizer(ctx, log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, authorizer)
	context.AfterFunc(ctx, server.GracefulStop)
	return server.Serve(listener)
}

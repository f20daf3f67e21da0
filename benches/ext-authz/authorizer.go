package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/uuid"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"
	"github.com/sirupsen/logrus"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

//go:embed policy.rego
var policy string

const decisionPath = "writ/bench/allow"

// authorizer decides each request by one prepared query, and logs the decision with OPA's own
// decision log plugin.
type authorizer struct {
	query rego.PreparedEvalQuery
	log   *logs.Plugin
}

// newAuthorizer compiles the policy; decisions are written to decisionLog, one JSON object a line.
func newAuthorizer(ctx context.Context, decisionLog io.Writer) (*authorizer, error) {
	store := inmem.New()
	query, err := rego.New(
		rego.Query("data."+strings.ReplaceAll(decisionPath, "/", ".")),
		rego.Module("policy.rego", policy),
		rego.Store(store),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("policy.rego does not compile: %w", err)
	}

	console := logging.New()
	console.SetOutput(decisionLog)
	console.SetFormatter(&logrus.JSONFormatter{})
	manager, err := plugins.New([]byte(`{"decision_logs": {"console": true}}`), "ext-authz", store,
		plugins.ConsoleLogger(console))
	if err != nil {
		return nil, fmt.Errorf("OPA's plugin manager: %w", err)
	}
	config, err := logs.NewConfigBuilder().WithBytes(manager.Config.DecisionLogs).Parse()
	if err != nil {
		return nil, fmt.Errorf("OPA's decision log: %w", err)
	}
	log := logs.New(config, manager)
	manager.Register(logs.Name, log)
	if err := manager.Start(ctx); err != nil {
		return nil, fmt.Errorf("OPA's plugin manager: %w", err)
	}
	return &authorizer{query: query, log: log}, nil
}

// Check implements envoy.service.auth.v3.Authorization. An error denies: Envoy is told to fail closed.
func (a *authorizer) Check(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	measured := metrics.New()
	measured.Timer("server_handler").Start()
	input, err := document(request)
	if err != nil {
		return nil, err
	}
	value, err := ast.InterfaceToValue(input)
	if err != nil {
		return nil, fmt.Errorf("input document: %w", err)
	}
	allowed, err := a.allowed(ctx, value, measured)
	if err != nil {
		return nil, err
	}
	measured.Timer("server_handler").Stop()

	var shown, result any = input, allowed
	err = a.log.Log(ctx, &server.Info{
		DecisionID: uuid.NewString(),
		Timestamp:  time.Now(),
		Path:       decisionPath,
		Input:      &shown,
		InputAST:   value,
		Results:    &result,
		Metrics:    measured,
	})
	if err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	code := codes.PermissionDenied
	if allowed {
		code = codes.OK
	}
	return &authv3.CheckResponse{Status: &status.Status{Code: int32(code)}}, nil
}

func (a *authorizer) allowed(ctx context.Context, input ast.Value, measured metrics.Metrics) (bool, error) {
	results, err := a.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalMetrics(measured))
	if err != nil {
		return false, fmt.Errorf("evaluation: %w", err)
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return false, errors.New("the policy gives no decision")
	}
	allowed, ok := results[0].Expressions[0].Value.(bool)
	if !ok {
		return false, errors.New("the policy's decision is not a boolean")
	}
	return allowed, nil
}

// document is the input as OPA's Envoy plugin gives it to policies: the request in protobuf's JSON
// mapping, and its path and query, parsed.
func document(request *authv3.CheckRequest) (map[string]any, error) {
	text, err := protojson.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("check request: %w", err)
	}
	var input map[string]any
	if err := util.UnmarshalJSON(text, &input); err != nil {
		return nil, fmt.Errorf("check request: %w", err)
	}
	target, err := url.ParseRequestURI(request.GetAttributes().GetRequest().GetHttp().GetPath())
	if err != nil {
		return nil, fmt.Errorf("the request's path: %w", err)
	}
	path := []any{}
	for _, part := range strings.Split(strings.TrimPrefix(target.Path, "/"), "/") {
		path = append(path, part)
	}
	query := map[string]any{}
	for name, values := range target.Query() {
		listed := make([]any, len(values))
		for i, value := range values {
			listed[i] = value
		}
		query[name] = listed
	}
	input["parsed_path"] = path
	input["parsed_query"] = query
	input["version"] = map[string]any{"ext_authz": "v3", "encoding": "protojson"}
	return input, nil
}

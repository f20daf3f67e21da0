package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
)

const (
	agent = "spiffe://demo.writ/ns/demo/sa/agent"
	tool  = "spiffe://demo.writ/ns/demo/sa/tool"
	host  = "payments.bank.example"
)

type call struct{ principal, extension, method, host, path string }

func (c call) request() *authv3.CheckRequest {
	attributes := &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Principal: c.principal},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: c.method, Host: c.host, Path: c.path,
		}},
	}
	if c.extension != "" {
		attributes.ContextExtensions = map[string]string{"agent": c.extension}
	}
	return &authv3.CheckRequest{Attributes: attributes}
}

func TestOnlyTheAgentMayReadAndOnlyWhatTheCatalogNames(t *testing.T) {
	const balance = "/v1/accounts/4711/balance"
	cases := map[string]struct {
		call call
		want codes.Code
	}{
		"the agent, as mutual TLS proved it":    {call{agent, "", "GET", host, balance}, codes.OK},
		"the agent's own pod":                   {call{"", agent, "GET", host, balance}, codes.OK},
		"the stream":                            {call{agent, "", "GET", host, "/v1/stream"}, codes.OK},
		"a query":                               {call{agent, "", "GET", host, balance + "?a=b"}, codes.OK},
		"another peer":                          {call{tool, "", "GET", host, balance}, codes.PermissionDenied},
		"another peer in the agent's name":      {call{tool, agent, "GET", host, balance}, codes.PermissionDenied},
		"another pod":                           {call{"", tool, "GET", host, balance}, codes.PermissionDenied},
		"nobody":                                {call{"", "", "GET", host, balance}, codes.PermissionDenied},
		"another method":                        {call{agent, "", "DELETE", host, balance}, codes.PermissionDenied},
		"another host":                          {call{agent, "", "GET", "bank.example", balance}, codes.PermissionDenied},
		"a path that the catalog does not have": {call{agent, "", "GET", host, "/v1/accounts"}, codes.PermissionDenied},
		"a longer path":                         {call{agent, "", "GET", host, balance + "/all"}, codes.PermissionDenied},
		"an empty account":                      {call{agent, "", "GET", host, "/v1/accounts//balance"}, codes.PermissionDenied},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			authorizer, err := newAuthorizer(context.Background(), &log)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := authorizer.Check(context.Background(), c.call.request())
			if err != nil {
				t.Fatal(err)
			}
			if got := codes.Code(answer.GetStatus().GetCode()); got != c.want {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			var logged struct {
				Result     bool   `json:"result"`
				DecisionID string `json:"decision_id"`
			}
			if err := json.Unmarshal(log.Bytes(), &logged); err != nil {
				t.Fatalf("decision log %q: %v", log.String(), err)
			}
			if logged.Result != (c.want == codes.OK) || logged.DecisionID == "" {
				t.Fatalf("decision log: %s", log.String())
			}
		})
	}
}

func TestAPathThatCannotBeParsedIsAnErrorWhichDenies(t *testing.T) {
	authorizer, err := newAuthorizer(context.Background(), &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := authorizer.Check(context.Background(), call{agent, "", "GET", host, "%zz"}.request()); err == nil {
		t.Fatalf("got %v", answer)
	}
}

func BenchmarkCheck(b *testing.B) {
	log, err := os.CreateTemp(b.TempDir(), "decisions")
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	authorizer, err := newAuthorizer(context.Background(), log)
	if err != nil {
		b.Fatal(err)
	}
	request := call{agent, "", "GET", host, "/v1/accounts/4711/balance"}.request()
	for b.Loop() {
		if _, err := authorizer.Check(context.Background(), request); err != nil {
			b.Fatal(err)
		}
	}
}

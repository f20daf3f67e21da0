# What demo/config/catalog.yaml and demo/config/rules.yaml say of the requests that the load sends:
# reading over HTTP from the payments service. What no rule allows is denied.
package writ.bench

default allow := false

allow if {
	rule := rules[agent]
	intent.capability in rule.capabilities
	intent.class <= rule.max_class
}

# At the target, the peer's identity as mutual TLS proved it. At the agent, where the connection is
# plain and comes from the pod itself, the identity that Envoy's configuration gives the pod.
agent := input.attributes.source.principal

agent := input.attributes.contextExtensions.agent if not input.attributes.source.principal

# Classes: 0 public, 1 internal, 2 confidential, 3 restricted.
rules := {"spiffe://demo.writ/ns/demo/sa/agent": {
	"capabilities": {"accounts.read", "payments.watch"},
	"max_class": 1,
}}

request := input.attributes.request.http

intent := {"capability": "accounts.read", "class": 1} if {
	request.host == "payments.bank.example"
	request.method == "GET"
	["v1", "accounts", id, "balance"] = input.parsed_path
	id != ""
}

intent := {"capability": "payments.watch", "class": 1} if {
	request.host == "payments.bank.example"
	request.method == "GET"
	input.parsed_path == ["v1", "stream"]
}

package client

import (
	"encoding/json"
	"fmt"

	"github.com/inferno-serve/inferno/client/internal/balance"
)

// callTimeout bounds calls that take no model's time, in the words of a service config. What generates, scores or embeds takes as long as
// its context allows, and watches last.
const callTimeout = "20s"

// config is gRPC's service config, as far as it is used here.
type config struct {
	MethodConfig        []methodConfig   `json:"methodConfig"`
	RetryThrottling     retryThrottling  `json:"retryThrottling"`
	LoadBalancingConfig []map[string]any `json:"loadBalancingConfig,omitempty"`
	HealthCheckConfig   *healthCheck     `json:"healthCheckConfig,omitempty"`
}

type methodConfig struct {
	Name        []methodName `json:"name"`
	RetryPolicy retryPolicy  `json:"retryPolicy"`
	Timeout     string       `json:"timeout,omitempty"`
}

type methodName struct {
	Service string `json:"service"`
	Method  string `json:"method,omitempty"`
}

type retryPolicy struct {
	MaxAttempts          int      `json:"maxAttempts"`
	InitialBackoff       string   `json:"initialBackoff"`
	MaxBackoff           string   `json:"maxBackoff"`
	BackoffMultiplier    float64  `json:"backoffMultiplier"`
	RetryableStatusCodes []string `json:"retryableStatusCodes"`
}

type retryThrottling struct {
	MaxTokens  int     `json:"maxTokens"`
	TokenRatio float64 `json:"tokenRatio"`
}

type healthCheck struct {
	ServiceName string `json:"serviceName"`
}

// serviceConfig says which calls gRPC sends again by itself: those that a server answered with UNAVAILABLE before it sent any header. A
// server sends nothing before the first token, so a stream that has not begun may move to another instance; one that has begun never does.
func serviceConfig(balanced, affinity bool) string {
	again := retryPolicy{
		MaxAttempts: 4, InitialBackoff: "0.1s", MaxBackoff: "2s", BackoffMultiplier: 2, RetryableStatusCodes: []string{"UNAVAILABLE"},
	}
	const inference, registry, health = "inferno.v1.InferenceService", "inferno.v1.RegistryService", "inferno.v1.HealthService"
	c := config{
		MethodConfig: []methodConfig{
			{Name: []methodName{{Service: inference}, {Service: registry}, {Service: health}}, RetryPolicy: again},
			{
				Name: []methodName{
					{inference, "Tokenize"}, {inference, "Detokenize"}, {inference, "Abort"},
					{registry, "ListModels"}, {registry, "GetModel"}, {registry, "ListInstances"}, {health, "Check"},
				},
				RetryPolicy: again, Timeout: callTimeout,
			},
		},
		// A failed attempt costs one of 1,000, a call that went well gives a fifth back, and below one half nothing is sent again: a replica
		// that dies with some hundred requests costs none of them, a fleet that is down is not asked four times as often.
		RetryThrottling: retryThrottling{MaxTokens: 1000, TokenRatio: 0.2},
	}
	if balanced {
		c.LoadBalancingConfig = []map[string]any{{balance.Name: map[string]bool{"affinity": affinity}}}
		c.HealthCheckConfig = &healthCheck{}
	}
	text, err := json.Marshal(c)
	if err != nil || !balance.Registered {
		panic(fmt.Sprintf("client: service config: %v", err)) // plain data
	}
	return string(text)
}

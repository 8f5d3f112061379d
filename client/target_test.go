package client

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestTargetsOfTheRegistry(t *testing.T) {
	for target, want := range map[string]lookup{
		"inferno:///llama-3": {model: "llama-3", etcd: []string{"127.0.0.1:2379"}, prefix: "inferno/v1"},
		"inferno:///meta/llama%203?etcd=a:1,https://b:2&prefix=x/y/&affinity=prefix": {
			model: "meta/llama 3", etcd: []string{"a:1", "https://b:2"}, prefix: "x/y", affinity: true,
		},
	} {
		got, ok, err := parseLookup(target)
		if err != nil || !ok {
			t.Fatalf("%s: %v, %v", target, ok, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(lookup{})); diff != "" {
			t.Errorf("%s (−want +got):\n%s", target, diff)
		}
	}
	for _, other := range []string{"127.0.0.1:50051", "dns:///inferno:50051", "unix:///inferno"} {
		if _, ok, err := parseLookup(other); ok || err != nil {
			t.Errorf("%s is taken for a target of the registry (%v)", other, err)
		}
	}
	for target, want := range map[string]string{
		"inferno://etcd:2379/llama-3":            "three slashes",
		"inferno:llama-3":                        "three slashes",
		"inferno:///":                            "0 bytes",
		"inferno:///" + strings.Repeat("m", 300): "300 bytes",
		"inferno:///m?etcd=":                     "one value",
		"inferno:///m?etcd=a:1,":                 "commas between",
		"inferno:///m?etcd=a:1&etcd=b:1":         "one value",
		"inferno:///m?affinity=some":             "affinity=some, want prefix or none",
		"inferno:///m?weight=1":                  "unknown parameter weight",
		"inferno:///m#x":                         "fragment",
		"inferno:///%zz":                         "escape",
	} {
		if _, err := Dial(target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", target, err, want)
		}
	}
}

func TestPromptsThatBeginAlikeHaveOneKey(t *testing.T) {
	text := func(s string) *infernov1.GenerateRequest {
		return &infernov1.GenerateRequest{Model: "m", Input: &infernov1.GenerateRequest_Text{Text: s}}
	}
	chat := func(messages ...string) *infernov1.GenerateRequest {
		c := &infernov1.ChatMessages{}
		for _, m := range messages {
			c.Messages = append(c.Messages, &infernov1.ChatMessage{Role: "user", Content: m})
		}
		return &infernov1.GenerateRequest{Model: "m", Input: &infernov1.GenerateRequest_Chat{Chat: c}}
	}
	ids := func(n int, last uint32) *infernov1.GenerateRequest {
		return &infernov1.GenerateRequest{
			Input: &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: append(make([]uint32, n), last)}},
		}
	}
	long := strings.Repeat("a", prefixBytes)
	salted := text("x")
	salted.Cache = &infernov1.CacheOptions{Salt: "tenant"}
	for _, c := range []struct {
		a, b *infernov1.GenerateRequest
		same bool
	}{
		{text(long + "x"), text(long + "y"), true},
		{text(long[1:] + "x"), text(long[1:] + "y"), false},
		{chat(long, "x"), chat(long, "y"), true},
		{chat("a", "b"), chat("a", "c"), false},
		{chat("a", "b"), chat("ab"), false},
		{ids(prefixBytes/4, 1), ids(prefixBytes/4, 2), true},
		{ids(5, 1), ids(5, 2), false},
		{text("x"), salted, false},
	} {
		if got := promptPrefix(c.a) == promptPrefix(c.b); got != c.same {
			t.Errorf("%.80v and %.80v: same key %v, want %v", c.a, c.b, got, c.same)
		}
	}
	if key := promptPrefix(&infernov1.GenerateRequest{Model: "m"}); key != "" {
		t.Errorf("no prompt has key %q", key)
	}
}

package server

import (
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/inferno-serve/inferno/internal/engine"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Templates, and arguments of templates, that a caller brought ran in other servers; here they come with the model alone. CVE-2025-62426,
// CVE-2026-115918.
func TestNoRequestBringsATemplate(t *testing.T) {
	fields := 0
	generateFields(t, func(path []protoreflect.FieldDescriptor) {
		fields++
		if name := string(path[len(path)-1].Name()); strings.Contains(name, "template") || strings.Contains(name, "kwargs") {
			t.Errorf("%s lets a caller bring a template", pathName(path))
		}
	})
	if fields < 30 {
		t.Errorf("%d fields, want all", fields)
	}
}

// Grammars that take long to compile held other servers up. Here each is refused, or compiled, at once, and what is compiled is followed.
// CVE-2026-55574, CVE-2026-25048, CVE-2025-58446, CVE-2025-32381, CVE-2025-29770.
func TestGrammarsHoldNobodyUp(t *testing.T) {
	s := play(part{ids: byteIDs("a"), finish: finished(engine.MaxTokens, 'a')})
	f := start(t, s)
	taken := map[string]bool{"backtrack/regex": true, "alternatives/regex": true, "alternatives/grammar": true}
	for name, text := range map[string]string{
		"nested":       strings.Repeat("(", 30_000) + strings.Repeat(")", 30_000),
		"backtrack":    "(a+)+" + strings.Repeat("b", 1000),
		"repeated":     "((a{1000}){1000}){1000}",
		"alternatives": `root ::= (("a" | "a") | ("a" | "a"))*`,
		"array":        strings.Repeat("[", 100_000),
		"object":       strings.Repeat(`{"type":"object","properties":{"a":`, 20_000),
	} {
		for form, c := range map[string]*infernov1.Constraint{
			"schema": {Form: &infernov1.Constraint_JsonSchema{JsonSchema: text}}, "regex": {Form: &infernov1.Constraint_Regex{Regex: text}},
			"grammar": {Form: &infernov1.Constraint_Grammar{Grammar: text}},
		} {
			req := textRequest("hi")
			req.Constraint = c
			_, err := f.api.Generate(t.Context(), req)
			if want := taken[name+"/"+form]; (err == nil) != want || err != nil && grpcCode(err) != codes.InvalidArgument || len(s.requests) > 0 != want {
				t.Errorf("%s as %s: %v, and the engine got %d requests", name, form, err, len(s.requests))
			}
			for len(s.requests) > 0 {
				<-s.requests
			}
		}
	}
}

// A count of tokens that overflows as it is added to the prompt's passed the check of the context. CVE-2026-114051.
func TestSumsOfTokensDoNotOverflow(t *testing.T) {
	s := newScript()
	f := start(t, s)
	for _, most := range []uint32{1<<31 - 1, 1 << 31, 1<<32 - 1, 1<<32 - 2} {
		for _, least := range []*uint32{nil, &most} {
			req := textRequest("hi")
			req.Stopping = &infernov1.StoppingParameters{MaxTokens: &most, MinTokens: least}
			if _, err := f.api.Generate(t.Context(), req); grpcCode(err) != codes.InvalidArgument || len(s.requests) > 0 {
				t.Errorf("max_tokens %d, min_tokens %v: %v, and the engine got %d requests", most, least, err, len(s.requests))
			}
		}
	}
}

// Contexts of tracing that a client made up are ignored, or taken, but never end a call or a line of the log.
func TestBadTraceContextsChangeNothing(t *testing.T) {
	f := start(t, newScript())
	raw := f.rawConn()
	for _, trace := range []string{"", "x", "00-" + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16) + "-01", strings.Repeat("a", 10<<10), "ff-é"} {
		if got := raw.callWith("/inferno.v1.RegistryService/ListModels", hpack.HeaderField{Name: "traceparent", Value: trace}); got != "0" {
			t.Errorf("traceparent %.40q: status %s", trace, got)
		}
	}
}

package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/inferno-serve/inferno/internal/auth"
	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/telemetry"
)

// toldFields are not secret: the log names requests and models, and errors quote what no model's template could take for a role.
var toldFields = []string{"request_id", "request_ids", "model", "name", "path", "role", "components"}

// canaries are texts that must not be found again, each with its number.
type canaries struct{ n int }

func (c *canaries) next() string {
	c.n++
	return fmt.Sprintf("canary-%03d-", c.n) + strings.Repeat("q", 8)
}

// GHSA-xr7q-jx4m-x55m, CVE-2026-108857: headers, prompts and keys stood in logs. Each text that a client can send, in a field or a header, holds
// a canary, alone and within a good request; at debug level none is in the log, the metrics, the traces as a receiver gets them, or an error.
func TestNoSecretIsTold(t *testing.T) {
	c := &canaries{}
	token, stranger := "inferno_"+c.next(), "inferno_"+c.next()
	output := c.next()
	s := play(part{ids: byteIDs(output), finish: finished(engine.MaxTokens, 'x')})
	s.requests = make(chan *scripted, 1<<12)
	traces, exported := openTraces(t)
	f := start(t, s, withAccess(t, identityBy("alice", token, "infer, read, admin, health", "")), func(o *Options) { o.Tracer = traces.Tracer() })
	errs := &strings.Builder{}
	tell := func(err error) {
		s := status.Convert(err)
		fmt.Fprintln(errs, s.Message(), s.Details())
	}
	first := f.conn
	f.conn = f.dial(grpc.WithPerRPCCredentials(tokenOf(token)))
	defer func() {
		f.conn.Close()
		f.conn = first
	}()

	for method := range methodRoles {
		if !strings.HasPrefix(method, "/inferno.") || methodRoles[method] == auth.Health {
			continue
		}
		name := strings.TrimPrefix(method, "/inferno.v1.")
		descriptor := methodNamed(t, name)
		root := messageType(t, descriptor.Input())
		visit(t, root, nil, func(path []protoreflect.FieldDescriptor) {
			last := path[len(path)-1]
			if last.Kind() != protoreflect.StringKind && last.Kind() != protoreflect.BytesKind || last.IsMap() || told(last) {
				return
			}
			for _, good := range []bool{false, true} {
				message := setField(root, path)
				setText(message, path, c.next())
				if model := root.Descriptor().Fields().ByName("model"); good && model != nil {
					message.Set(model, protoreflect.ValueOfString("m"))
				}
				payload, err := proto.Marshal(message.Interface())
				if err != nil {
					t.Fatal(err)
				}
				tell(f.send(descriptor, payload))
			}
		})
	}
	fields := c.n
	anonymous := f.dial()
	defer anonymous.Close()
	for _, header := range [][2]string{
		{"authorization", "Bearer "}, {"authorization", "Basic "}, {"authorization", ""}, {"cookie", "session="}, {"x-api-key", ""}, {"x-secret", ""},
		{"x-secret-bin", ""}, {"proxy-authorization", "Bearer "}, {"traceparent", ""}, {"tracestate", "a="}, {"baggage", "k="}, {"x-request-id", ""},
		{"x-forwarded-for", ""}, {"set-cookie", ""}, {"grpc-trace-bin", ""}, {"authorization-bin", ""}, {"x-amz-security-token", ""},
	} {
		for _, conn := range []*grpc.ClientConn{f.conn, anonymous} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), header[0], header[1]+c.next())
			was := f.conn
			f.conn = conn
			tell(f.empty(ctx, "/inferno.v1.InferenceService/Generate"))
			f.conn = was
		}
	}
	tell(f.empty(as(t.Context(), stranger), "/inferno.v1.InferenceService/Generate"))
	// What a trace's context brings is read only where it is whole.
	state := metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent, "tracestate", "a="+c.next()+",ot=th:8", "baggage", "k="+c.next())
	tell(f.empty(state, "/inferno.v1.InferenceService/Generate"))

	f.Stop(t.Context())
	spans := exported()
	if !strings.Contains(spans, "inferno.v1.InferenceService/Score") || !strings.Contains(spans, "ot=th:8") {
		t.Errorf("the traces lack requests, or what they say of sampling: %.2000s", spans)
	}
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	log := strings.Join(f.log.with(), "")
	if strings.Count(log, "\n") < c.n/2 {
		t.Errorf("%d lines of the log for %d calls: is it at debug level?", strings.Count(log, "\n"), c.n)
	}
	for place, text := range map[string]string{"the log": log, "the metrics": fmt.Sprint(families), "the traces": spans, "an error": errs.String()} {
		if i := strings.Index(text, "qqqqqqqq"); i >= 0 {
			t.Errorf("%s tells a secret: …%.200s", place, text[max(0, i-150):])
		}
	}
	if c.n < 40 {
		t.Errorf("%d canaries, want at least 40", c.n)
	}
	t.Logf("%d canaries in fields, %d elsewhere", fields, c.n-fields)
}

// received keeps what an OTLP receiver gets, as text.
type received struct {
	collector.UnimplementedTraceServiceServer
	mu   sync.Mutex
	text strings.Builder
}

func (r *received) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text.WriteString(req.String())
	return &collector.ExportTraceServiceResponse{}, nil
}

// openTraces has every request traced. exported ends that, and returns all that a receiver got.
func openTraces(t *testing.T) (traces *telemetry.Traces, exported func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	far, s := &received{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(s, far)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	traces, err = telemetry.NewTraces(t.Context(), telemetry.TraceOptions{
		Endpoint: "http://" + l.Addr().String(), Ratio: 1, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return traces, func() string {
		traces.Close()
		s.GracefulStop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		return far.text.String()
	}
}

// tokenOf shows a token with every call, in plain text.
type tokenOf string

func (t tokenOf) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (tokenOf) RequireTransportSecurity() bool { return false }

func told(field protoreflect.FieldDescriptor) bool {
	for _, name := range toldFields {
		if string(field.Name()) == name {
			return true
		}
	}
	return false
}

// setText sets the field of a path, which exists.
func setText(message protoreflect.Message, path []protoreflect.FieldDescriptor, text string) {
	for _, field := range path[:len(path)-1] {
		if field.IsList() {
			message = message.Mutable(field).List().Get(0).Message()
		} else {
			message = message.Mutable(field).Message()
		}
	}
	last := path[len(path)-1]
	value := protoreflect.ValueOfString(text)
	if last.Kind() == protoreflect.BytesKind {
		value = protoreflect.ValueOfBytes([]byte(text))
	}
	if last.IsList() {
		message.Mutable(last).List().Set(0, value)
		return
	}
	message.Set(last, value)
}

func messageType(t *testing.T, d protoreflect.MessageDescriptor) protoreflect.MessageType {
	t.Helper()
	found, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

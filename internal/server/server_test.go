package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectiongrpc "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// TestDrainAndStop is the life of a server that is told to stop while a client streams.
func TestDrainAndStop(t *testing.T) {
	g := newScript()
	f := start(t, g)
	stream, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
	if err != nil {
		t.Fatal(err)
	}
	request := <-g.requests
	request.parts <- part{ids: byteIDs("x")}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}

	f.Drain()
	f.Drain()
	_, err = f.api.Generate(t.Context(), textRequest("hi"))
	if _, ok := retryDelay(wantStatus(t, err, codes.Unavailable, "DRAINING")); !ok {
		t.Error("no RetryInfo while the server drains")
	}
	if _, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: "x"}}); err != nil {
		t.Errorf("tokenizing needs no place on the device, but: %v", err)
	}
	answer, err := healthgrpc.NewHealthClient(f.conn).Check(t.Context(), &healthgrpc.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != healthgrpc.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health while the server drains: %v, %v", answer, err)
	}

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		f.Stop(context.Background()) // waits for the stream
	}()
	probe := f.dial() // orchestrators probe on new connections
	defer probe.Close()
	answer, err = healthgrpc.NewHealthClient(probe).Check(t.Context(), &healthgrpc.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != healthgrpc.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health on a new connection while the server stops: %v, %v", answer, err)
	}
	for range 20 { // a new watch too, whatever the components say
		watch, err := healthgrpc.NewHealthClient(probe).Watch(t.Context(), &healthgrpc.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := watch.Recv(); err != nil || answer.GetStatus() != healthgrpc.HealthCheckResponse_NOT_SERVING {
			t.Fatalf("a new watch while the server stops: %v, %v", answer, err)
		}
	}
	request.parts <- part{ids: byteIDs("y"), finish: finished(engine.MaxTokens, 'y')}
	all, err := readAll(stream)
	if err != nil || len(all) != 1 || all[0].GetFinish() == nil {
		t.Errorf("the stream ended with %v, %v, want its finish", all, err)
	}
	<-stopped
	if _, err := f.api.Tokenize(t.Context(), &infernov1.TokenizeRequest{Model: "m"}); grpcCode(err) != codes.Unavailable {
		t.Errorf("a call after the stop: %v", err)
	}
}

func TestStopAtItsDeadlineTellsClientsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		var streams []infernov1.InferenceService_GenerateStreamClient
		for range 32 {
			stream, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, stream)
			(<-g.requests).parts <- part{ids: byteIDs("x")}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		f.Stop(ctx)
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("stopped after %v, want the 5 s of the deadline", took)
		}
		for _, stream := range streams {
			all, err := readAll(stream)
			if len(all) != 1 {
				t.Errorf("%d messages, want the one that was sent", len(all))
			}
			wantStatus(t, err, codes.Unavailable, "STOPPED")
		}
	})
}

// TestStopDoesNotWaitForAReaderThatIsGone: Send blocks, and only closing the connection ends it.
func TestStopDoesNotWaitForAReaderThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		if _, err := f.api.GenerateStream(t.Context(), textRequest("hi")); err != nil {
			t.Fatal(err)
		}
		request := <-g.requests
		go func() {
			for {
				select {
				case request.parts <- part{ids: byteIDs(strings.Repeat("x", 4096))}:
				case <-request.ctx.Done():
					return
				}
			}
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		f.Stop(ctx)
		if took := time.Since(begin); took != lastWords {
			t.Errorf("stopped after %v, want %v", took, lastWords)
		}
	})
}

func TestEngineClosedUnderItsStreams(t *testing.T) {
	g := newScript()
	f := start(t, g)
	stream, err := f.api.GenerateStream(t.Context(), textRequest("hi"))
	if err != nil {
		t.Fatal(err)
	}
	request := <-g.requests
	f.Drain()
	request.parts <- part{err: engine.ErrAborted}
	_, err = stream.Recv()
	wantStatus(t, err, codes.Unavailable, "STOPPED")
}

// TestWatchersDoNotHoldUpTheStop: 1,000 watchers of every kind on several connections, and no deadline for the stop.
func TestWatchersDoNotHoldUpTheStop(t *testing.T) {
	f := start(t, newScript())
	const watchers = 1000
	ended := make(chan error, watchers)
	watching := sync.WaitGroup{}
	var conns []*grpc.ClientConn
	for i := range watchers {
		if i%200 == 0 {
			conns = append(conns, f.dial())
		}
		conn := conns[len(conns)-1]
		watching.Add(1)
		go func() {
			first := sync.OnceFunc(watching.Done)
			ended <- watch(t.Context(), conn, i%3, first)
			first()
		}()
	}
	watching.Wait()
	f.Stop(context.Background())
	for range watchers {
		if err := <-ended; grpcCode(err) != codes.Unavailable {
			t.Fatalf("a watch ended with %v", err)
		}
	}
	for _, conn := range conns {
		conn.Close()
	}
}

// watch follows a stream to its end and calls first once something has come.
func watch(ctx context.Context, conn *grpc.ClientConn, kind int, first func()) error {
	receive := func() error { return nil }
	switch kind {
	case 0:
		stream, err := healthgrpc.NewHealthClient(conn).Watch(ctx, &healthgrpc.HealthCheckRequest{})
		if err != nil {
			return err
		}
		receive = func() error { _, err := stream.Recv(); return err }
	case 1:
		stream, err := infernov1.NewHealthServiceClient(conn).Watch(ctx, &infernov1.WatchRequest{})
		if err != nil {
			return err
		}
		receive = func() error { _, err := stream.Recv(); return err }
	case 2:
		stream, err := infernov1.NewRegistryServiceClient(conn).WatchInstances(ctx, &infernov1.WatchInstancesRequest{})
		if err != nil {
			return err
		}
		receive = func() error { _, err := stream.Recv(); return err }
	}
	for {
		if err := receive(); err != nil {
			return err
		}
		first()
	}
}

func TestStandardHealth(t *testing.T) {
	f := start(t, newScript())
	client := healthgrpc.NewHealthClient(f.conn)
	names := []string{"", "inferno.v1.InferenceService", "inferno.v1.HealthService", "inferno.v1.RegistryService", "engine/m"}
	for _, c := range []struct {
		state health.State
		want  healthgrpc.HealthCheckResponse_ServingStatus
	}{
		{health.Unknown, healthgrpc.HealthCheckResponse_NOT_SERVING},
		{health.Starting, healthgrpc.HealthCheckResponse_NOT_SERVING},
		{health.Serving, healthgrpc.HealthCheckResponse_SERVING},
		{health.Degraded, healthgrpc.HealthCheckResponse_SERVING},
		{health.NotServing, healthgrpc.HealthCheckResponse_NOT_SERVING},
		{health.Draining, healthgrpc.HealthCheckResponse_NOT_SERVING},
	} {
		f.engine.set(c.state)
		f.checker.Ask(t.Context())
		for _, name := range names {
			got, err := client.Check(t.Context(), &healthgrpc.HealthCheckRequest{Service: name})
			if err != nil || got.GetStatus() != c.want {
				t.Errorf("%v, service %q: %v, %v, want %v", c.state, name, got, err, c.want)
			}
		}
		alive, err := client.Check(t.Context(), &healthgrpc.HealthCheckRequest{Service: "liveness"})
		if err != nil || alive.GetStatus() != healthgrpc.HealthCheckResponse_SERVING {
			t.Errorf("%v, liveness: %v, %v, want SERVING: nothing is to be restarted", c.state, alive, err)
		}
		list, err := client.List(t.Context(), &healthgrpc.HealthListRequest{})
		if err != nil || len(list.GetStatuses()) != len(names)+1 || list.GetStatuses()[""].GetStatus() != c.want {
			t.Errorf("%v: list %v, %v", c.state, list, err)
		}
	}
	if _, err := client.Check(t.Context(), &healthgrpc.HealthCheckRequest{Service: "inferno.v1.Inference"}); grpcCode(err) != codes.NotFound {
		t.Errorf("unknown service: %v, want NOT_FOUND", err)
	}
}

func TestStandardWatchTellsChangesOnly(t *testing.T) {
	f := start(t, newScript())
	f.engine.set(health.Starting)
	f.checker.Ask(t.Context())
	client := healthgrpc.NewHealthClient(f.conn)
	stream, err := client.Watch(t.Context(), &healthgrpc.HealthCheckRequest{Service: "inferno.v1.InferenceService"})
	if err != nil {
		t.Fatal(err)
	}
	want := func(s healthgrpc.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if got, err := stream.Recv(); err != nil || got.GetStatus() != s {
			t.Fatalf("got %v, %v, want %v", got, err, s)
		}
	}
	want(healthgrpc.HealthCheckResponse_NOT_SERVING)
	f.engine.set(health.NotServing) // the same to this protocol
	f.checker.Ask(t.Context())
	f.engine.set(health.Serving)
	f.checker.Ask(t.Context())
	want(healthgrpc.HealthCheckResponse_SERVING)
	f.Drain()
	want(healthgrpc.HealthCheckResponse_NOT_SERVING)
	_, err = stream.Recv()
	wantStatus(t, err, codes.Unavailable, "DRAINING")

	g := start(t, newScript())
	unknown, err := healthgrpc.NewHealthClient(g.conn).Watch(t.Context(), &healthgrpc.HealthCheckRequest{Service: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unknown.Recv(); err != nil || got.GetStatus() != healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("unknown service: %v, %v", got, err)
	}
}

func TestHealthService(t *testing.T) {
	f := start(t, newScript())
	f.checker.Add(&component{name: "memory", state: health.Degraded}, false)
	client := infernov1.NewHealthServiceClient(f.conn)

	got, err := client.Check(t.Context(), &infernov1.CheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	report := got.GetReport()
	if report.GetState() != infernov1.HealthState_HEALTH_STATE_DEGRADED || len(report.GetComponents()) != 2 {
		t.Fatalf("report %v", report)
	}
	engine, memory := report.GetComponents()[0], report.GetComponents()[1]
	if engine.GetName() != "engine/m" || engine.GetState() != infernov1.HealthState_HEALTH_STATE_SERVING || engine.GetReason() != "" ||
		!engine.GetCritical() || engine.GetSince().AsTime().IsZero() {
		t.Errorf("engine: %v", engine)
	}
	if memory.GetName() != "memory" || memory.GetState() != infernov1.HealthState_HEALTH_STATE_DEGRADED || memory.GetReason() == "" ||
		memory.GetCritical() {
		t.Errorf("memory: %v", memory)
	}
	one, err := client.Check(t.Context(), &infernov1.CheckRequest{Components: []string{"memory"}})
	if err != nil || len(one.GetReport().GetComponents()) != 1 {
		t.Errorf("one component: %v, %v", one, err)
	}
	if _, err := client.Check(t.Context(), &infernov1.CheckRequest{Components: []string{"memory", "x"}}); grpcCode(err) != codes.NotFound {
		t.Errorf("unknown component: %v", err)
	}

	stream, err := client.Watch(t.Context(), &infernov1.WatchRequest{Components: []string{"engine/m"}})
	if err != nil {
		t.Fatal(err)
	}
	want := func(whole, part infernov1.HealthState) {
		t.Helper()
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r := got.GetReport(); r.GetState() != whole || len(r.GetComponents()) != 1 || r.GetComponents()[0].GetState() != part {
			t.Fatalf("got %v, want %v of which the engine is %v", r, whole, part)
		}
	}
	want(infernov1.HealthState_HEALTH_STATE_DEGRADED, infernov1.HealthState_HEALTH_STATE_SERVING)
	f.engine.set(health.NotServing)
	f.checker.Ask(t.Context())
	want(infernov1.HealthState_HEALTH_STATE_NOT_SERVING, infernov1.HealthState_HEALTH_STATE_NOT_SERVING)
	f.Drain()
	want(infernov1.HealthState_HEALTH_STATE_DRAINING, infernov1.HealthState_HEALTH_STATE_NOT_SERVING)
	_, err = stream.Recv()
	wantStatus(t, err, codes.Unavailable, "DRAINING")

	unknown, err := start(t, newScript()).healthClient().Watch(t.Context(), &infernov1.WatchRequest{Components: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unknown.Recv(); grpcCode(err) != codes.NotFound {
		t.Errorf("watch of an unknown component: %v", err)
	}
}

func (f *fixture) healthClient() infernov1.HealthServiceClient {
	return infernov1.NewHealthServiceClient(f.conn)
}

func TestReflectionListsTheServices(t *testing.T) {
	f := start(t, newScript())
	want := []string{
		"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
		"inferno.v1.HealthService", "inferno.v1.InferenceService", "inferno.v1.RegistryService",
	}
	var got []string
	v1, err := reflectiongrpc.NewServerReflectionClient(f.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := v1.Send(&reflectiongrpc.ServerReflectionRequest{MessageRequest: &reflectiongrpc.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := v1.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range answer.GetListServicesResponse().GetService() {
		got = append(got, s.GetName())
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("services %q, want %q", got, want)
	}
	v1.CloseSend()

	alpha, err := reflectionalpha.NewServerReflectionClient(f.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := alpha.Send(&reflectionalpha.ServerReflectionRequest{
		MessageRequest: &reflectionalpha.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "inferno.v1.InferenceService"},
	}); err != nil {
		t.Fatal(err)
	}
	if answer, err := alpha.Recv(); err != nil || len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("v1alpha: %v, %v", answer, err)
	}
	alpha.CloseSend()

	off := start(t, newScript(), func(o *Options) { o.Reflection = false })
	none, err := reflectiongrpc.NewServerReflectionClient(off.conn).ServerReflectionInfo(t.Context())
	if err == nil {
		_, err = none.Recv()
	}
	if grpcCode(err) != codes.Unimplemented {
		t.Errorf("reflection that is off: %v", err)
	}
}

func TestMetricsCountCallsByCode(t *testing.T) {
	f := start(t, play(part{ids: byteIDs("x"), finish: finished(engine.MaxTokens, 'x')}))
	if _, err := f.api.Generate(t.Context(), textRequest("hi")); err != nil {
		t.Fatal(err)
	}
	_, err := f.api.Generate(t.Context(), textRequest(""))
	wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
	f.Stop(t.Context()) // the counts are there once the handlers have ended
	for code, want := range map[string]float64{"OK": 1, "InvalidArgument": 1, "Internal": 0} {
		if got := f.counter("grpc_server_handled_total", "Generate", code); got != want {
			t.Errorf("%v calls of Generate ended with %s, want %v", got, code, want)
		}
	}
}

func (f *fixture) counter(name, method, code string) float64 {
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if family.GetName() == name && labels["grpc_method"] == method && labels["grpc_code"] == code {
				return metric.GetCounter().GetValue()
			}
		}
	}
	f.t.Fatalf("no metric %s of method %s and code %s", name, method, code)
	return 0
}

// CVE-2026-24158, CVE-2026-24264: a small message became a large one behind the check of its size.
func TestMessagesAreBounded(t *testing.T) {
	f := start(t, newScript())
	large := textRequest(strings.Repeat("x", 4<<20))
	_, err := f.api.Generate(t.Context(), large)
	if grpcCode(err) != codes.ResourceExhausted {
		t.Errorf("more than 4 MiB: %v", err)
	}
	bomb := textRequest(strings.Repeat("x", 16<<20)) // 16 KiB on the wire
	_, err = f.api.Generate(t.Context(), bomb, grpc.UseCompressor(gzip.Name))
	if grpcCode(err) != codes.ResourceExhausted {
		t.Errorf("gzip bomb: %v", err)
	}
	small := &infernov1.TokenizeRequest{Model: "m", Input: &infernov1.TokenizeRequest_Text{Text: "x"}}
	if _, err := f.api.Tokenize(metadata.AppendToOutgoingContext(t.Context(), "x-large", strings.Repeat("x", 17<<10)), small); err == nil {
		t.Error("17 KiB of headers were taken")
	}
	if _, err := f.api.Tokenize(t.Context(), small); err != nil {
		t.Errorf("a call after all that: %v", err)
	}
}

func TestUnknownMethodsAreUnimplemented(t *testing.T) {
	f := start(t, newScript())
	for _, method := range []string{"/inferno.v1.InferenceService/Nothing", "/x/y", "/inferno.v1.InferenceService/generate"} {
		err := f.conn.Invoke(t.Context(), method, &infernov1.AbortRequest{}, &infernov1.AbortResponse{})
		if grpcCode(err) != codes.Unimplemented {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// TestPathsWithoutASlashAreRefused speaks HTTP/2 by hand: no gRPC library sends such a path.
func TestPathsWithoutASlashAreRefused(t *testing.T) {
	f := start(t, newScript())
	conn, err := f.listener.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{"inferno.v1.InferenceService/Generate", "", "//inferno.v1.InferenceService/Generate"} {
		var block bytes.Buffer
		headers := hpack.NewEncoder(&block)
		for _, field := range []hpack.HeaderField{
			{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: path},
			{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
		} {
			headers.WriteField(field)
		}
		stream := uint32(2*i + 1)
		if err := framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		}); err != nil {
			t.Fatal(err)
		}
		if got := readStatus(t, framer, stream); got != "12" { // UNIMPLEMENTED
			t.Errorf("path %q: status %q, want 12", path, got)
		}
	}
}

// readStatus is the grpc-status of a stream, or what ended it otherwise.
func readStatus(t *testing.T, framer *http2.Framer, stream uint32) string {
	t.Helper()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return err.Error()
		}
		if frame.Header().StreamID != stream {
			continue
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		case *http2.MetaHeadersFrame:
			for _, field := range frame.Fields {
				if field.Name == "grpc-status" {
					return field.Value
				}
			}
		}
	}
}

// TestVanishedClientIsNoticed: a connection on which nothing comes any more, not even an answer to a ping.
func TestVanishedClientIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newScript()
		f := start(t, g)
		link := &link{cut: make(chan struct{})}
		conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				c, err := f.listener.DialContext(ctx)
				link.Conn = c
				return link, err
			}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := infernov1.NewInferenceServiceClient(conn).GenerateStream(t.Context(), textRequest("hi")); err != nil {
			t.Fatal(err)
		}
		request := <-g.requests
		synctest.Wait()
		close(link.cut)
		begin := time.Now()
		<-request.ctx.Done()
		if took := time.Since(begin); took > 35*time.Second {
			t.Errorf("noticed after %v, want at most 35 s", took)
		}
		conn.Close()
	})
}

// link is a connection that can be cut: what is written then is lost.
type link struct {
	net.Conn
	cut chan struct{}
}

func (l *link) Write(p []byte) (int, error) {
	select {
	case <-l.cut:
		return len(p), nil
	default:
		return l.Conn.Write(p)
	}
}

func TestNewWantsItsParts(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a server without models was made")
	}
	f := start(t, newScript())
	if _, err := New(Options{Models: models{}, Health: f.checker, Instances: f.fleet, Registerer: f.registry}); err == nil {
		t.Error("a second server took the same registry")
	}
}

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/engine"
	"github.com/inferno-serve/inferno/internal/health"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// loaderFunc loads at once, or fails as a test says, by the path.
type loaderFunc func(path string) error

func (l loaderFunc) Load(_ context.Context, r LoadRequest, progress func(LoadProgress) error) error {
	p := LoadProgress{Model: ModelInfo{Name: r.Name, State: ModelLoading, Pinned: r.Pinned}, Total: 10}
	if err := progress(p); err != nil {
		return err
	}
	p.Model.State, p.Loaded = ModelReady, 10
	failed := l(r.Path)
	if failed != nil {
		p.Model.State, p.Model.Reason, p.Loaded = ModelFailed, failed.Error(), 5
	}
	return errors.Join(progress(p), failed)
}

// Unload tells the patience as the reason.
func (l loaderFunc) Unload(_ context.Context, name string, drain *time.Duration) (ModelInfo, error) {
	if name != "m" {
		return ModelInfo{}, ErrUnknownModel
	}
	reason := "the server's own patience"
	if drain != nil {
		reason = drain.String()
	}
	return ModelInfo{Name: name, State: ModelUnloaded, Reason: reason}, nil
}

// loadsPaths knows the paths of a loader that tests share.
var loadsPaths = loaderFunc(func(path string) error {
	switch path {
	case "good":
		return nil
	case "none":
		return fmt.Errorf("%q: %w", path, ErrNoPath)
	}
	return fmt.Errorf("%q: %w", path, ErrBadPath)
})

func loadModelCases() []requestCase {
	const good = `name:"x" path:"good" `
	cases := []requestCase{
		taken("a model", good),
		taken("a pinned model", good+"pinned:true"),
		taken("a name with every kind of character", `path:"good" name:"Ab9._:/-x"`),
		taken("a name as long as may be", `path:"good" name:`+letters(maxModelNameLen)),
		faulty("nothing", "", "name path", ""),
		faulty("no name", `path:"good"`, "name", "is empty"),
		faulty("no path", `name:"x"`, "path", "is empty, want a path below a model root"),
		faulty("a long name", `path:"good" name:`+letters(maxModelNameLen+1), "name", "want at most 128"),
		faulty("a long path", `name:"x" path:`+letters(maxPathLen+1), "path", "want at most 4096"),
		faulty("a path with a NUL", `name:"x" path:"a\000"`, "path", "control characters"),
		faulty("a path with a line end", `name:"x" path:"a\n"`, "path", "control characters"),
		answered("a path that is not there", `name:"x" path:"none"`, codes.NotFound, "not found below a model root"),
	}
	for _, path := range []string{"../../etc", "/etc/passwd", "a/../..", "~", "м"} {
		cases = append(cases, faulty("a path that leads out, "+path, `name:"x" path:`+quoted(path), "path", "leads out of the model roots"))
	}
	for _, name := range []string{"a b", "м", "..", "a/../b", "a=b", "a\"b", "a{b}"} {
		cases = append(cases, faulty("the name "+name, `path:"good" name:`+quoted(name), "name", "want only characters of"))
	}
	return cases
}

func unloadModelCases() []requestCase {
	const good = `name:"m" `
	cases := []requestCase{
		taken("a model", good),
		taken("at once", good+"drain_timeout{}"),
		taken("with patience", good+"drain_timeout{seconds:86400}"),
		faulty("no name", "", "name", "is empty"),
		faulty("a long name", "name:"+letters(maxModelNameLen+1), "name", "want at most 128"),
		answered("an unknown model", `name:"n"`, codes.NotFound, "unknown model"),
	}
	for _, d := range []string{"seconds:-1", "nanos:-1", "seconds:86401", "seconds:86400 nanos:1", "nanos:1000000000", "seconds:1 nanos:-1",
		"seconds:9223372036854775807", "seconds:-9223372036854775808"} {
		cases = append(cases, faulty("a patience of "+d, good+"drain_timeout{"+d+"}", "drain_timeout", "want 0 s to 24h"))
	}
	return cases
}

func loadModel(ctx context.Context, f *fixture, req *infernov1.LoadModelRequest) (got []*infernov1.LoadModelResponse, err error) {
	stream, err := infernov1.NewRegistryServiceClient(f.conn).LoadModel(ctx, req)
	for err == nil {
		var m *infernov1.LoadModelResponse
		if m, err = stream.Recv(); err == nil {
			got = append(got, m)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return got, err
}

func TestLoadTellsItsProgressAndItsEnd(t *testing.T) {
	f := start(t, newScript())
	got, err := loadModel(t.Context(), f, &infernov1.LoadModelRequest{Name: "x", Path: "good", Pinned: true})
	if err != nil || len(got) != 2 || got[1].GetLoadedBytes() != 10 || got[1].GetTotalBytes() != 10 || !got[1].GetModel().GetPinned() ||
		got[0].GetModel().GetState() != infernov1.ModelState_MODEL_STATE_LOADING || got[1].GetModel().GetState() != infernov1.ModelState_MODEL_STATE_READY {
		t.Errorf("%v, %v", got, err)
	}
	for reason, failed := range map[string]struct {
		err  error
		code codes.Code
	}{
		"MODEL_UNUSABLE":  {fmt.Errorf("%w: config.json: it is broken", ErrLoadFailed), codes.FailedPrecondition},
		"NO_ROOM":         {fmt.Errorf("%w: 2 GiB", ErrNoRoom), codes.ResourceExhausted},
		"MODEL_EXISTS":    {ErrModelExists, codes.AlreadyExists},
		"LOAD_UNDONE":     {ErrLoadUndone, codes.Aborted},
		"DRAINING":        {engine.ErrDraining, codes.Unavailable},
		"MODEL_NOT_READY": {ErrModelNotReady, codes.Unavailable},
	} {
		g := start(t, newScript(), func(o *Options) { o.Loader = loaderFunc(func(string) error { return failed.err }) })
		got, err := loadModel(t.Context(), g, &infernov1.LoadModelRequest{Name: "x", Path: "p"})
		wantStatus(t, err, failed.code, reason)
		if len(got) != 2 || got[1].GetModel().GetState() != infernov1.ModelState_MODEL_STATE_FAILED || got[1].GetModel().GetReason() != failed.err.Error() {
			t.Errorf("%s: told %v before its end", reason, got)
		}
	}
}

func TestUnloadHasThePatienceAskedFor(t *testing.T) {
	f := start(t, newScript())
	client := infernov1.NewRegistryServiceClient(f.conn)
	for reason, drain := range map[string]*durationpb.Duration{
		"the server's own patience": nil, "0s": {}, "1.5s": durationpb.New(1500 * time.Millisecond),
	} {
		got, err := client.UnloadModel(t.Context(), &infernov1.UnloadModelRequest{Name: "m", DrainTimeout: drain})
		if err != nil || got.GetModel().GetState() != infernov1.ModelState_MODEL_STATE_UNLOADED || got.GetModel().GetReason() != reason {
			t.Errorf("%v, %v, want %s", got, err, reason)
		}
	}
}

func TestModelsChangeOnlyForCallersOnTheSameHost(t *testing.T) {
	both := func(f *fixture) [2]error {
		_, load := loadModel(t.Context(), f, &infernov1.LoadModelRequest{Name: "x", Path: "good"})
		_, unload := infernov1.NewRegistryServiceClient(f.conn).UnloadModel(t.Context(), &infernov1.UnloadModelRequest{Name: "m"})
		return [2]error{load, unload}
	}
	open := start(t, newScript(), func(o *Options) { o.LocalOnly = false })
	fixed := start(t, newScript(), func(o *Options) { o.Loader = nil })
	stopping := start(t, newScript())
	stopping.Drain()
	for i := range 2 {
		wantStatus(t, both(open)[i], codes.PermissionDenied, "FORBIDDEN")
		if err := both(fixed)[i]; grpcCode(err) != codes.Unimplemented || !strings.Contains(err.Error(), "do not change") {
			t.Errorf("a server whose models stay: %v", err)
		}
		wantStatus(t, both(stopping)[i], codes.Unavailable, "DRAINING")
	}
}

// With an access file the role admin alone may, wherever the server listens.
func TestModelsChangeOnlyForAdmins(t *testing.T) {
	for _, local := range []bool{false, true} {
		f := start(t, newScript(), func(o *Options) { o.LocalOnly = local },
			withAccess(t, identity("boss", "admin", ""), identity("user", "infer, read, health", "")))
		for _, who := range []struct {
			ctx    context.Context
			code   codes.Code
			reason string
		}{
			{as(t.Context(), "boss"), codes.OK, ""},
			{as(t.Context(), "user"), codes.PermissionDenied, "ROLE_MISSING"},
			{t.Context(), codes.Unauthenticated, "UNAUTHENTICATED"},
		} {
			_, err := loadModel(who.ctx, f, &infernov1.LoadModelRequest{Name: "x", Path: "good"})
			wantStatus(t, err, who.code, who.reason)
			_, err = infernov1.NewRegistryServiceClient(f.conn).UnloadModel(who.ctx, &infernov1.UnloadModelRequest{Name: "m"})
			wantStatus(t, err, who.code, who.reason)
		}
	}
}

// What an engine that is being closed says of a request is told as what it is to the client: a reason to try again.
func TestRequestsOfAModelThatLeavesMayBeTriedAgain(t *testing.T) {
	leaving, leave := context.WithCancel(t.Context())
	leave()
	model := &Model{Info: ModelInfo{Name: "m"}, Leaving: leaving}
	live := newLiveRequests()
	for _, err := range []error{engine.ErrDraining, engine.ErrAborted} {
		wantStatus(t, toStatus(live.why(t.Context(), model, err), ""), codes.Unavailable, "MODEL_NOT_READY")
	}
	aborted, abort := context.WithCancelCause(t.Context())
	abort(engine.ErrAborted)
	wantStatus(t, toStatus(live.why(aborted, model, engine.ErrAborted), ""), codes.Canceled, "ABORTED")
	wantStatus(t, toStatus(live.why(t.Context(), &Model{}, engine.ErrAborted), ""), codes.Canceled, "ABORTED")
}

func TestStandardHealthKnowsModels(t *testing.T) {
	f := start(t, newScript())
	client := healthgrpc.NewHealthClient(f.conn)
	model := &component{name: "model/x", state: health.Starting}
	f.checker.Add(model, false)
	watch, err := client.Watch(t.Context(), &healthgrpc.HealthCheckRequest{Service: "model/x"})
	if err != nil {
		t.Fatal(err)
	}
	check := func(want healthgrpc.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if got, err := watch.Recv(); err != nil || got.GetStatus() != want {
			t.Fatalf("watch: %v, %v, want %v", got, err, want)
		}
		got, err := client.Check(t.Context(), &healthgrpc.HealthCheckRequest{Service: "model/x"})
		list, failed := client.List(t.Context(), &healthgrpc.HealthListRequest{})
		if failed != nil {
			t.Fatal(failed)
		}
		if want == healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN {
			if _, listed := list.GetStatuses()["model/x"]; grpcCode(err) != codes.NotFound || listed {
				t.Errorf("check %v, %v, list %v; want it unknown", got, err, list)
			}
			return
		}
		if err != nil || got.GetStatus() != want || list.GetStatuses()["model/x"].GetStatus() != want {
			t.Errorf("check %v, %v, list %v; want %v", got, err, list, want)
		}
		if list.GetStatuses()[""].GetStatus() != healthgrpc.HealthCheckResponse_SERVING {
			t.Error("a model that comes or goes took the whole along")
		}
	}
	check(healthgrpc.HealthCheckResponse_NOT_SERVING)
	model.set(health.Serving)
	f.checker.Ask(t.Context())
	check(healthgrpc.HealthCheckResponse_SERVING)
	model.set(health.Draining)
	f.checker.Ask(t.Context())
	check(healthgrpc.HealthCheckResponse_NOT_SERVING)
	f.checker.Remove("model/x")
	check(healthgrpc.HealthCheckResponse_SERVICE_UNKNOWN)
}

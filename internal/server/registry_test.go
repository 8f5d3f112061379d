package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func TestModels(t *testing.T) {
	f := start(t, newScript())
	client := infernov1.NewRegistryServiceClient(f.conn)
	list, err := client.ListModels(t.Context(), &infernov1.ListModelsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list.GetModels() {
		names = append(names, m.GetName()+" "+m.GetState().String()+" "+m.GetReason())
	}
	want := []string{"ids MODEL_STATE_READY ", "loading MODEL_STATE_LOADING weights are read", "m MODEL_STATE_READY "}
	if !cmp.Equal(names, want) {
		t.Errorf("models %q, want %q", names, want)
	}

	one, err := client.GetModel(t.Context(), &infernov1.GetModelRequest{Name: "m"})
	if err != nil {
		t.Fatal(err)
	}
	one.GetModel().Since = nil
	wantOne := parse(t, `model{
		name:"m" revision:"r1" state:MODEL_STATE_READY architecture:"llama" parameters:1000 weight_type:"F32" vocabulary_size:260
		max_context:32 has_tokenizer:true memory{}
	}`, &infernov1.GetModelResponse{})
	if diff := cmp.Diff(wantOne, one, protocmp.Transform()); diff != "" {
		t.Errorf("(−want +got):\n%s", diff)
	}

	_, err = client.GetModel(t.Context(), &infernov1.GetModelRequest{Name: "x"})
	wantStatus(t, err, codes.NotFound, "UNKNOWN_MODEL")
	_, err = client.GetModel(t.Context(), &infernov1.GetModelRequest{})
	wantStatus(t, err, codes.InvalidArgument, "INVALID_FIELD")
}

func instance(id string, models ...string) discovery.Instance {
	i := discovery.Instance{
		ID: id, Address: id + ":1", State: discovery.Serving, Version: "v1", StartTime: time.Unix(1e9, 0),
		Load: discovery.Load{Running: 1, Queued: 2, KVUse: 0.5, TokensPerSecond: 9}, LeaseLeft: 3 * time.Second,
	}
	for _, m := range models {
		i.Models = append(i.Models, discovery.Model{Name: m, Revision: "r", Ready: true, MaxContext: 8})
	}
	return i
}

func TestInstances(t *testing.T) {
	f := start(t, newScript())
	client := infernov1.NewRegistryServiceClient(f.conn)
	for _, i := range []discovery.Instance{instance("b", "m", "n"), instance("a", "m"), instance("c", "n")} {
		if _, err := f.fleet.Register(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	for model, want := range map[string]string{"": "a b c", "m": "a b", "n": "b c", "x": ""} {
		list, err := client.ListInstances(t.Context(), &infernov1.ListInstancesRequest{Model: model})
		if err != nil {
			t.Fatal(err)
		}
		if got := instanceIDs(list.GetInstances()); got != want {
			t.Errorf("instances of model %q: %q, want %q", model, got, want)
		}
	}
	list, err := client.ListInstances(t.Context(), &infernov1.ListInstancesRequest{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	want := parse(t, `
		id:"a" address:"a:1" models{name:"m" revision:"r" state:MODEL_STATE_READY max_context:8} state:INSTANCE_STATE_SERVING
		load{running_requests:1 queued_requests:2 kv_use:0.5 tokens_per_second:9} version:"v1" start_time{seconds:1000000000}
		generation:1 lease_remaining{seconds:3}`, &infernov1.Instance{})
	if diff := cmp.Diff(want, list.GetInstances()[0], protocmp.Transform()); diff != "" {
		t.Errorf("(−want +got):\n%s", diff)
	}
}

// leased is a registry that says what is left of leases when it is asked, and only then.
type leased struct{ broken }

func (l leased) List(context.Context) ([]discovery.Instance, error) {
	i := instance("a", "m")
	i.LeaseLeft = 0
	return []discovery.Instance{i, instance("b", "n")}, nil
}

func (l leased) ListWithLeases(context.Context) ([]discovery.Instance, error) {
	return []discovery.Instance{instance("a", "m"), instance("b", "n")}, nil
}

func TestLeasesAreToldWhereAskedFor(t *testing.T) {
	f := start(t, newScript(), func(o *Options) { o.Instances = leased{} })
	for _, ask := range []bool{false, true} {
		list, err := infernov1.NewRegistryServiceClient(f.conn).ListInstances(
			t.Context(), &infernov1.ListInstancesRequest{Model: "m", WithLeases: ask})
		if err != nil || len(list.GetInstances()) != 1 || (list.GetInstances()[0].LeaseRemaining != nil) != ask {
			t.Errorf("with_leases %t: %v, %v", ask, list, err)
		}
	}
}

func instanceIDs(list []*infernov1.Instance) string {
	var ids []string
	for _, i := range list {
		ids = append(ids, i.GetId())
	}
	return strings.Join(ids, " ")
}

// TestWatchInstancesOfAModel: an instance that gives the model up is gone, one that never had it is never seen.
func TestWatchInstancesOfAModel(t *testing.T) {
	f := start(t, newScript())
	a, err := f.fleet.Register(t.Context(), instance("a", "m"))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := infernov1.NewRegistryServiceClient(f.conn).WatchInstances(t.Context(), &infernov1.WatchInstancesRequest{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	next := func() string {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		switch e := m.GetEvent().(type) {
		case *infernov1.WatchInstancesResponse_Snapshot:
			return "snapshot " + instanceIDs(e.Snapshot.GetInstances())
		case *infernov1.WatchInstancesResponse_Put:
			return "put " + e.Put.GetId()
		case *infernov1.WatchInstancesResponse_RemovedId:
			return "removed " + e.RemovedId
		}
		return "nothing"
	}
	want := func(w string) {
		t.Helper()
		if got := next(); got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want("snapshot a")
	other, err := f.fleet.Register(t.Context(), instance("other", "n"))
	must(err)
	must(a.Update(t.Context(), instance("a", "m", "n")))
	want("put a")
	must(other.Update(t.Context(), instance("other", "m")))
	want("put other")
	must(a.Update(t.Context(), instance("a", "n")))
	want("removed a")
	must(a.Withdraw(t.Context())) // nothing new to this client
	must(other.Withdraw(t.Context()))
	want("removed other")
}

// broken is a registry that fails.
type broken struct {
	watch chan discovery.Event
	err   error
}

func (b broken) List(context.Context) ([]discovery.Instance, error) { return nil, b.err }

func (b broken) ListWithLeases(context.Context) ([]discovery.Instance, error) { return nil, b.err }

func (b broken) Watch(context.Context) (<-chan discovery.Event, error) { return b.watch, nil }

func TestBrokenRegistry(t *testing.T) {
	registry := broken{watch: make(chan discovery.Event, 1), err: errors.New("etcd at 10.0.0.1")}
	f := start(t, newScript(), func(o *Options) { o.Instances = registry })
	client := infernov1.NewRegistryServiceClient(f.conn)
	_, err := client.ListInstances(t.Context(), &infernov1.ListInstancesRequest{})
	wantStatus(t, err, codes.Internal, "INTERNAL")
	if strings.Contains(err.Error(), "10.0.0.1") {
		t.Errorf("the client sees %v", err)
	}
	stream, err := client.WatchInstances(t.Context(), &infernov1.WatchInstancesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	put := instance("a", "m")
	registry.watch <- discovery.Event{Put: &put} // without a snapshot before it
	if m, err := stream.Recv(); err != nil || m.GetPut().GetId() != "a" {
		t.Errorf("got %v, %v", m, err)
	}
	close(registry.watch)
	if _, err := stream.Recv(); grpcCode(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
}

// A registry that does not answer is no fault of this server: the call may be tried again, and is told nothing of where the registry is.
func TestRegistryThatIsAwayIsUnavailable(t *testing.T) {
	registry := broken{err: fmt.Errorf("%w: etcd at 10.0.0.1: connection refused", discovery.ErrAway)}
	f := start(t, newScript(), func(o *Options) { o.Instances = registry })
	_, err := infernov1.NewRegistryServiceClient(f.conn).ListInstances(t.Context(), &infernov1.ListInstancesRequest{})
	wantStatus(t, err, codes.Unavailable, "REGISTRY_AWAY")
	if strings.Contains(err.Error(), "10.0.0.1") {
		t.Errorf("the client sees %v", err)
	}
}

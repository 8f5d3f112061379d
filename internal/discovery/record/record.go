// Package record is the wire form of a discovery.Instance: what RegistryService answers and what a registry outside the process holds, so
// that a client reads both with one type. It has no state; any goroutine may call it.
package record

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/inferno-serve/inferno/internal/discovery"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// Limits of what a registry may hold. A stranger can write there; a reader must not pay for it.
const (
	MaxBytes  = 16 << 10 // of an encoded instance
	MaxModels = 127      // each is a key, and with the instance itself a transaction of etcd holds no more
	MaxText   = 256      // bytes of a name, id, revision, version or address
)

// Of is the wire form of i.
func Of(i discovery.Instance) *infernov1.Instance {
	out := &infernov1.Instance{
		Id:      i.ID,
		Address: i.Address,
		State:   stateProto(i.State),
		Load: &infernov1.InstanceLoad{
			RunningRequests: uint32(i.Load.Running), QueuedRequests: uint32(i.Load.Queued),
			KvUse: i.Load.KVUse, TokensPerSecond: i.Load.TokensPerSecond,
		},
		Version:    i.Version,
		StartTime:  timestamppb.New(i.StartTime),
		Generation: i.Generation,
	}
	if i.LeaseLeft > 0 {
		out.LeaseRemaining = durationpb.New(i.LeaseLeft)
	}
	for _, m := range i.Models {
		state := infernov1.ModelState_MODEL_STATE_LOADING
		switch {
		case m.Ready:
			state = infernov1.ModelState_MODEL_STATE_READY
		case m.Leaving:
			state = infernov1.ModelState_MODEL_STATE_DRAINING
		}
		out.Models = append(out.Models, &infernov1.InstanceModel{
			Name: m.Name, Revision: m.Revision, State: state, MaxContext: uint32(m.MaxContext), MaxBatch: uint32(m.MaxBatch),
			MaxQueue: uint32(m.MaxQueue),
		})
	}
	return out
}

// stateProto: a registry may hold what other versions wrote, so that an unknown state is no bug here.
func stateProto(s discovery.State) infernov1.InstanceState {
	switch s {
	case discovery.Serving:
		return infernov1.InstanceState_INSTANCE_STATE_SERVING
	case discovery.Degraded:
		return infernov1.InstanceState_INSTANCE_STATE_DEGRADED
	case discovery.Draining:
		return infernov1.InstanceState_INSTANCE_STATE_DRAINING
	}
	return infernov1.InstanceState_INSTANCE_STATE_NOT_SERVING
}

// Encode is i as JSON, checked as Decode checks it.
func Encode(i discovery.Instance) ([]byte, error) {
	if err := check(i); err != nil {
		return nil, err
	}
	value, err := protojson.Marshal(Of(i))
	if err != nil {
		return nil, err
	}
	if len(value) > MaxBytes {
		return nil, fmt.Errorf("record of %d bytes, want at most %d", len(value), MaxBytes)
	}
	return value, nil
}

// Decode reads what Encode wrote, in this version or a later one: fields that it does not know are skipped. The value may be anybody's;
// what a reader could not use is an error.
func Decode(value []byte) (discovery.Instance, error) {
	if len(value) > MaxBytes {
		return discovery.Instance{}, fmt.Errorf("record of %d bytes, want at most %d", len(value), MaxBytes)
	}
	var p infernov1.Instance
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 32}).Unmarshal(value, &p); err != nil {
		return discovery.Instance{}, err
	}
	load := p.GetLoad()
	i := discovery.Instance{
		ID: p.GetId(), Address: p.GetAddress(), State: stateOf(p.GetState()), Version: p.GetVersion(), Generation: p.GetGeneration(),
		Load: discovery.Load{
			Running: int(load.GetRunningRequests()), Queued: int(load.GetQueuedRequests()),
			KVUse: load.GetKvUse(), TokensPerSecond: load.GetTokensPerSecond(),
		},
	}
	if p.StartTime != nil {
		if err := p.StartTime.CheckValid(); err != nil {
			return discovery.Instance{}, fmt.Errorf("start_time: %w", err)
		}
		i.StartTime = p.StartTime.AsTime()
	}
	for _, m := range p.GetModels() {
		i.Models = append(i.Models, discovery.Model{
			Name: m.GetName(), Revision: m.GetRevision(), MaxContext: int(m.GetMaxContext()), MaxBatch: int(m.GetMaxBatch()),
			MaxQueue: int(m.GetMaxQueue()), Ready: m.GetState() == infernov1.ModelState_MODEL_STATE_READY,
			Leaving: m.GetState() == infernov1.ModelState_MODEL_STATE_DRAINING,
		})
	}
	return i, check(i)
}

// stateOf: whatever this version does not know takes no requests.
func stateOf(s infernov1.InstanceState) discovery.State {
	switch s {
	case infernov1.InstanceState_INSTANCE_STATE_SERVING:
		return discovery.Serving
	case infernov1.InstanceState_INSTANCE_STATE_DEGRADED:
		return discovery.Degraded
	case infernov1.InstanceState_INSTANCE_STATE_DRAINING:
		return discovery.Draining
	}
	return discovery.NotServing
}

func check(i discovery.Instance) error {
	for _, text := range []struct{ field, value string }{
		{"id", i.ID}, {"address", i.Address}, {"version", i.Version},
	} {
		if len(text.value) > MaxText {
			return fmt.Errorf("%s: %d bytes, want at most %d", text.field, len(text.value), MaxText)
		}
	}
	if i.ID == "" {
		return errors.New("id is empty")
	}
	if err := CheckAddress(i.Address); err != nil {
		return err
	}
	if !(i.Load.KVUse >= 0 && i.Load.KVUse <= 1) {
		return fmt.Errorf("load.kv_use: %v, want 0 to 1", i.Load.KVUse)
	}
	if !(i.Load.TokensPerSecond >= 0) || math.IsInf(i.Load.TokensPerSecond, 0) {
		return fmt.Errorf("load.tokens_per_second: %v, want 0 or more", i.Load.TokensPerSecond)
	}
	return checkModels(i.Models)
}

// CheckAddress takes HOST:PORT and unix:///PATH: a client must be able to dial it, and a log line to show it.
func CheckAddress(address string) error {
	if strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("address: %q has spaces or control characters", address)
	}
	if path, ok := strings.CutPrefix(address, "unix://"); ok && strings.HasPrefix(path, "/") {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	number, notNumber := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" || notNumber != nil || number == 0 {
		return fmt.Errorf("address: %q, want HOST:PORT or unix:///PATH", address)
	}
	return nil
}

func checkModels(models []discovery.Model) error {
	if len(models) > MaxModels {
		return fmt.Errorf("models: %d, want at most %d", len(models), MaxModels)
	}
	seen := make(map[string]bool, len(models))
	for _, m := range models {
		switch {
		case m.Name == "" || len(m.Name) > MaxText:
			return fmt.Errorf("models: a name of %d bytes, want 1 to %d", len(m.Name), MaxText)
		case len(m.Revision) > MaxText:
			return fmt.Errorf("models: %q: revision of %d bytes, want at most %d", m.Name, len(m.Revision), MaxText)
		case seen[m.Name]:
			return fmt.Errorf("models: %q is there twice", m.Name)
		}
		seen[m.Name] = true
	}
	return nil
}

// Same says whether a and b are one start of one process: whoever wrote a may replace b.
func Same(a, b discovery.Instance) bool {
	return a.ID == b.ID && a.StartTime.Equal(b.StartTime)
}

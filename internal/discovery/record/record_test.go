package record_test

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/inferno-serve/inferno/internal/discovery"
	"github.com/inferno-serve/inferno/internal/discovery/record"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

func full() discovery.Instance {
	return discovery.Instance{
		ID: "a/b", Address: "[::1]:50051", Version: "v1.2", StartTime: time.Unix(1e9, 123456789).UTC(), Generation: 1<<63 + 1,
		Models: []discovery.Model{
			{Name: "org/m", Revision: "sha", Ready: true, MaxContext: 8192, MaxBatch: 64, MaxQueue: 256}, {Name: "n", MaxContext: 4},
			{Name: "o", Leaving: true},
		},
		State: discovery.Degraded,
		Load:  discovery.Load{Running: 3, Queued: 2, KVUse: 0.125, TokensPerSecond: 70.5},
	}
}

// Every field comes back, the ones that are added later too.
func TestInstanceComesBackWhole(t *testing.T) {
	want := full()
	for _, part := range []any{want, want.Load, want.Models[0]} {
		fields := reflect.ValueOf(part)
		for n := range fields.NumField() {
			if name := fields.Type().Field(n).Name; fields.Field(n).IsZero() && name != "LeaseLeft" && name != "Leaving" { // what a reader sets, and of another
				t.Errorf("the test says nothing of %T.%s", part, name)
			}
		}
	}
	value, err := record.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := record.Decode(value)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s\ncomes back as %+v (%v)\nwant %+v", value, got, err, want)
	}
	var p infernov1.Instance // what a client reads it as
	if err := protojson.Unmarshal(value, &p); err != nil || p.GetModels()[0].GetName() != "org/m" || p.GetLoad().GetRunningRequests() != 3 {
		t.Errorf("as inferno.v1.Instance: %v (%v)", &p, err)
	}
}

func TestALaterVersionsRecordIsRead(t *testing.T) {
	got, err := record.Decode([]byte(`{"id":"a","address":"h:1","state":"INSTANCE_STATE_SERVING","weather":{"rain":[1,2]},"load":{"moon":3}}`))
	if err != nil || got.ID != "a" || got.State != discovery.Serving {
		t.Errorf("%+v (%v)", got, err)
	}
	// A state that this version has no word for takes no requests.
	got, err = record.Decode([]byte(`{"id":"a","address":"h:1","state":77}`))
	if err != nil || got.State != discovery.NotServing {
		t.Errorf("%+v (%v), want NOT_SERVING", got, err)
	}
}

func TestWhatAReaderCouldNotUseIsRefused(t *testing.T) {
	long := strings.Repeat("x", record.MaxText+1)
	for _, c := range []struct{ value, want string }{
		{`{"address":"h:1"}`, "id is empty"},
		{`{"id":"a"}`, `address: ""`},
		{`{"id":"a","address":"host"}`, "want HOST:PORT"},
		{`{"id":"a","address":":1"}`, "want HOST:PORT"},
		{`{"id":"a","address":"h:"}`, "want HOST:PORT"},
		{`{"id":"a","address":"h:0"}`, "want HOST:PORT"},
		{`{"id":"a","address":"h:65536"}`, "want HOST:PORT"},
		{`{"id":"a","address":"unix://relative"}`, "want HOST:PORT"},
		{`{"id":"a","address":"h:1\u0000"}`, "control characters"},
		{`{"id":"a","address":"h:1 h:2"}`, "has spaces"},
		{`{"id":"` + long + `","address":"h:1"}`, "id: 257 bytes, want at most 256"},
		{`{"id":"a","address":"h:1","version":"` + long + `"}`, "version: 257 bytes"},
		{`{"id":"a","address":"h:1","load":{"kvUse":1.5}}`, "load.kv_use: 1.5"},
		{`{"id":"a","address":"h:1","load":{"kvUse":"NaN"}}`, "load.kv_use: NaN"},
		{`{"id":"a","address":"h:1","load":{"tokensPerSecond":-1}}`, "load.tokens_per_second: -1"},
		{`{"id":"a","address":"h:1","load":{"tokensPerSecond":"Infinity"}}`, "load.tokens_per_second: +Inf"},
		{`{"id":"a","address":"h:1","models":[{}]}`, "models: a name of 0 bytes"},
		{`{"id":"a","address":"h:1","models":[{"name":"m","revision":"` + long + `"}]}`, `"m": revision of 257 bytes`},
		{`{"id":"a","address":"h:1","models":[{"name":"m"},{"name":"m"}]}`, `"m" is there twice`},
		{`{"id":"a","address":"h:1","generation":-1}`, "generation"},
		{`{"id":"a","address":"h:1","startTime":"yesterday"}`, "Timestamp"},
		{`{"id":"a","address":"h:1"} {}`, "unexpected"},
		{`[]`, "unexpected"}, {``, "unexpected"}, {"\xff", "invalid"}, {strings.Repeat("[", 10000), ""},
		{`{"id":"a","address":"h:1","x":` + strings.Repeat("[", 4000) + strings.Repeat("]", 4000) + `}`, "recursion"},
		{`{"id":"a","address":"h:1","x":"` + strings.Repeat("x", record.MaxBytes) + `"}`, "bytes, want at most 16384"},
	} {
		if i, err := record.Decode([]byte(c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: %+v, %v; want an error with %q", c.value, i, err, c.want)
		}
	}
	many := full()
	many.Models = nil
	for n := range record.MaxModels + 1 {
		many.Models = append(many.Models, discovery.Model{Name: fmt.Sprint("m", n)})
	}
	if _, err := record.Encode(many); err == nil || !strings.Contains(err.Error(), "models: 128, want at most 127") {
		t.Errorf("128 models: %v", err)
	}
	broken := full()
	broken.Load.KVUse = math.NaN()
	if _, err := record.Encode(broken); err == nil {
		t.Error("NaN was encoded")
	}
}

// Whatever is read can be written, and is then read as the same.
func FuzzDecode(f *testing.F) {
	value, err := record.Encode(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte(`{"id":"a","address":"unix:///s","models":[{"name":"m"}],"state":4}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		first, err := record.Decode(value)
		if err != nil {
			return
		}
		again, err := record.Encode(first)
		if err != nil {
			if len(value) < record.MaxBytes/2 {
				t.Fatalf("%q is read, but not written: %v", value, err)
			}
			return // what was written shorter than we write it
		}
		second, err := record.Decode(again)
		if err != nil || !reflect.DeepEqual(first, second) {
			t.Fatalf("%q reads as %+v, and then as %+v (%v)", value, first, second, err)
		}
	})
}

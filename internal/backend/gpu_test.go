package backend

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/device"
	"github.com/inferno-serve/inferno/internal/health"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// fakeCard is a driver that says what a test has it say.
type fakeCard struct {
	events chan health.CardEvent
	closed chan struct{}
}

func newFakeCard() *fakeCard { return &fakeCard{make(chan health.CardEvent), make(chan struct{})} }

func (*fakeCard) Read() (health.Reading, error) {
	return health.Reading{Name: "a card", UUID: "GPU-1", Temperature: 40, TotalBytes: 80 << 30, UsedBytes: 10 << 30, OthersBytes: -1}, nil
}

func (c *fakeCard) Wait(limit time.Duration) (health.CardEvent, bool, error) {
	select {
	case e := <-c.events:
		return e, true, nil
	case <-time.After(limit):
		return health.CardEvent{}, false, nil
	}
}

func (c *fakeCard) Close() { close(c.closed) }

// onCard is the configuration of a device that is none of the CPU's: its memory is this machine's, of which the server takes its 64 MiB.
func onCard(c *config.Config) { c.KVMemory = 64 << 20 }

func TestLostCardTurnsHealthAndEndsTheServer(t *testing.T) {
	for name, e := range map[string]health.CardEvent{
		"off the bus": {XID: 79}, "uncorrected ECC": {XID: 48}, "never heard of": {XID: 998}, "poison": {Kind: "fatal memory poison"},
	} {
		t.Run(name, func(t *testing.T) {
			card := newFakeCard()
			r := startBeside(t, false, onCard, 0, card)
			r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
			watch, err := infernov1.NewHealthServiceClient(r.dial()).Watch(t.Context(), &infernov1.WatchRequest{Components: []string{"gpu/0"}})
			if err != nil {
				t.Fatal(err)
			}
			if m, err := watch.Recv(); err != nil || m.GetReport().GetComponents()[0].GetState() != infernov1.HealthState_HEALTH_STATE_SERVING {
				t.Fatalf("%v, %v, want the card SERVING", m, err)
			}
			stream := r.startHeld() // the card computes nothing more, and no step fails either
			caused := time.Now()
			card.events <- e
			m, err := watch.Recv()
			told := time.Since(caused)
			if err != nil || m.GetReport().GetComponents()[0].GetState() != infernov1.HealthState_HEALTH_STATE_NOT_SERVING ||
				!strings.Contains(m.GetReport().GetComponents()[0].GetReason(), e.String()) {
				t.Errorf("%v, %v, want the card NOT_SERVING for %v", m, err, e)
			}
			for err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
			}
			if ended := <-r.done; !errors.Is(ended, device.ErrLost) || !errors.Is(ended, health.ErrCardLost) {
				t.Errorf("the server ended with %v, want device.ErrLost and the event", ended)
			}
			t.Logf("told after %v, ended after %v", told, time.Since(caused))
			close(r.release)
			<-card.closed
			r.stop()
		})
	}
}

func TestEventsThatACardSurvivesAreNamed(t *testing.T) {
	card := newFakeCard()
	r := startBeside(t, false, onCard, 0, card)
	r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	card.events <- health.CardEvent{XID: 31}
	report := r.waitState(infernov1.HealthState_HEALTH_STATE_DEGRADED)
	if c := report.GetComponents()[0]; c.GetName() != "gpu/0" || !strings.HasPrefix(c.GetReason(), "XID 31 at ") {
		t.Errorf("report %v", report)
	}
	if answer, err := infernov1.NewInferenceServiceClient(r.dial()).Generate(t.Context(), request(3)); err != nil {
		t.Errorf("%v, %v", answer, err)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	<-card.closed
}

// A card that no model of the start runs on is watched from the first load on, and after the last model has left too.
func TestCardOfALaterLoadIsWatched(t *testing.T) {
	for _, unloaded := range []bool{false, true} {
		card := newFakeCard()
		root := modelsOf(t)
		r := startBeside(t, false, func(c *config.Config) {
			onCard(c)
			c.Models, c.ModelRoots = nil, []string{root}
		}, 0, card)
		r.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
		conn := r.dial()
		m := &models{r, root, conn, infernov1.NewRegistryServiceClient(conn), infernov1.NewInferenceServiceClient(conn)}
		checks := infernov1.NewHealthServiceClient(conn)
		if _, err := checks.Check(t.Context(), &infernov1.CheckRequest{Components: []string{"gpu/0"}}); status.Code(err) != codes.NotFound {
			t.Errorf("before a load: %v, want no card", err)
		}
		m.mustLoad("x", "a", false)
		m.mustLoad("y", "b", false)
		if got, err := checks.Check(t.Context(), &infernov1.CheckRequest{Components: []string{"gpu/0"}}); err != nil ||
			got.GetReport().GetComponents()[0].GetState() != infernov1.HealthState_HEALTH_STATE_SERVING {
			t.Errorf("after it: %v, %v, want the card SERVING", got, err)
		}
		if unloaded {
			if err := errors.Join(m.unload("x", 0), m.unload("y", 0)); err != nil {
				t.Fatal(err)
			}
		}
		card.events <- health.CardEvent{XID: 79}
		if err := <-r.done; !errors.Is(err, device.ErrLost) || !errors.Is(err, health.ErrCardLost) {
			t.Errorf("the server ended with %v, want device.ErrLost and the event", err)
		}
		<-card.closed
		r.stop()
	}
}

func TestCardLostDuringTheLoadEndsTheStart(t *testing.T) {
	card := newFakeCard()
	r := startBeside(t, true, onCard, 0, card)
	<-r.loading
	card.events <- health.CardEvent{XID: 79}
	if err := <-r.done; !errors.Is(err, ErrStart) || !errors.Is(err, device.ErrLost) || !strings.Contains(err.Error(), "XID 79") {
		t.Errorf("the server ended with %v, want ErrStart and device.ErrLost for XID 79", err)
	}
	<-card.closed
	r.stop()
}

package main_test

import (
	bits "encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// TestNotFiniteEndsItsOwnRequestAloneCUDA: one of two requests gets a NaN; the server and the other go on.
func TestNotFiniteEndsItsOwnRequestAloneCUDA(t *testing.T) {
	s := startFaulty(t, faultyCUDA(t))
	const rounds = 5 // in one both may be over before the fault comes
	for round := range rounds {
		streams := []infernov1.InferenceService_GenerateStreamClient{s.endless(), s.endless()}
		s.cause("nan")
		ended := map[codes.Code]int{}
		for _, stream := range streams {
			err := drain(stream)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			ended[status.Code(err)]++
		}
		if ended[codes.DataLoss] == 1 && ended[codes.OK] == 1 {
			break
		}
		if ended[codes.OK] != 2 || round == rounds-1 {
			t.Fatalf("streams ended with %v, want one DATA_LOSS and one OK", ended)
		}
	}
	s.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	if err := drain(s.endless()); !errors.Is(err, io.EOF) {
		t.Errorf("a later request ended with %v", err)
	}
}

// poison is the token whose embedding is no number in poisoned checkpoints.
const poison = 7

func TestPoisonStaysInItsRequest(t *testing.T) { testPoison(t, "--device=cpu") }

func TestPoisonStaysInItsRequestCUDA(t *testing.T) { testPoison(t, card(t)...) }

// testPoison: keys, values and activations of a request that sees the poison are NaN. Others beside it, and those that get its KV blocks
// after it, give the tokens that they give alone.
func testPoison(t *testing.T, args ...string) {
	t.Helper()
	p := startProcess(t, nil, append(args, "--model=tiny="+poisoned(t), "--kv-memory=1MiB", "--max-batch=8", "--context=128")...)
	p.waitState(infernov1.HealthState_HEALTH_STATE_SERVING)
	client := infernov1.NewInferenceServiceClient(p.dial())
	ask := func(ids ...uint32) ([]uint32, error) {
		request := generate(60)
		request.Input = &infernov1.GenerateRequest_TokenIds{TokenIds: &infernov1.TokenIds{Ids: ids}}
		answer, err := client.Generate(t.Context(), request)
		if err != nil {
			return nil, err
		}
		return answer.GetCompletions()[0].GetTokenIds(), nil
	}
	want, err := ask(1, 5, 9)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(want, poison) {
		t.Fatalf("the model itself generates %d: %v", poison, want)
	}
	const atOnce, rounds = 8, 6 // some times the pool's blocks
	for round := range rounds {
		type answer struct {
			bad bool
			ids []uint32
			err error
		}
		answers := make(chan answer, atOnce)
		for i := range atOnce {
			go func() {
				a := answer{bad: (i+round)%2 == 0}
				if a.bad {
					a.ids, a.err = ask(slices.Repeat([]uint32{1, poison, 9}, 20)...)
				} else {
					a.ids, a.err = ask(1, 5, 9)
				}
				answers <- a
			}()
		}
		for range atOnce {
			switch a := <-answers; {
			case a.bad && status.Code(a.err) != codes.DataLoss:
				t.Errorf("round %d: a poisoned request ended with %v, want DATA_LOSS", round, a.err)
			case !a.bad && (a.err != nil || !slices.Equal(a.ids, want)):
				t.Errorf("round %d: a request beside poisoned ones ended with %v %v, want %v", round, a.err, a.ids, want)
			}
		}
	}
}

// poisoned is a copy of the tiny checkpoint whose embedding of the poison is NaN.
func poisoned(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS(tiny)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "model.safetensors")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	header := int(bits.LittleEndian.Uint64(file))
	var tensors map[string]struct {
		Type    string `json:"dtype"`
		Shape   []int
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(file[8:8+header], &tensors); err != nil {
		t.Fatal(err)
	}
	embedding := tensors["model.embed_tokens.weight"]
	if embedding.Type != "F32" {
		t.Fatalf("the embedding is %+v, want F32", embedding)
	}
	row := 4 * embedding.Shape[1]
	at := 8 + header + embedding.Offsets[0] + poison*row
	for i := at; i < at+row; i += 4 {
		bits.LittleEndian.PutUint32(file[i:], math.Float32bits(float32(math.NaN())))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

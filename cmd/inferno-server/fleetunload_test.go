package main_test

import (
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// A model leaves one of two instances that serve it: calls that it had not begun go to the other.
func TestModelUnloadedFromOneInstanceLosesNoRequest(t *testing.T) {
	c := etcdtest.Start(t, 1)
	stays := startInstance(t, c)
	stays.waitServing()
	l := underFleetLoad(t, c, 4)
	for range rounds(3, 30) {
		p := startInstance(t, c)
		p.waitServing()
		p.waitTaking()
		registry := infernov1.NewRegistryServiceClient(p.dial())
		if _, err := registry.UnloadModel(t.Context(), &infernov1.UnloadModelRequest{Name: "tiny", DrainTimeout: durationpb.New(0)}); err != nil {
			t.Fatal(err)
		}
		l.more(stays, 300)
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.exit()
	}
	l.wantNoneLost(t)
}

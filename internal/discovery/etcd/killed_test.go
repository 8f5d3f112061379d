package etcd_test

import (
	"bufio"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// startInstance runs an instance as a process of its own, and returns once it is registered.
func startInstance(t *testing.T, c *etcdtest.Cluster, id string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asInstance+"="+c.Endpoints()[0]+" "+id)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "registered\n" {
		t.Fatalf("the instance says %q (%v)", line, err)
	}
	return cmd
}

// An instance is killed: its key goes when its lease ends, watchers hear of it, and its id is free for the next.
func TestKilledInstanceLeavesTheRegistry(t *testing.T) {
	c := start(t, 1)
	eye := c.Client(t)
	r := open(t, c)
	events, err := r.Watch(t.Context())
	check(t, err)
	<-events
	longest := time.Duration(0)
	for range rounds(1, 100) {
		victim := startInstance(t, c, "victim")
		if e := <-events; e.Put == nil || e.Put.ID != "victim" {
			t.Fatalf("%+v, want the instance", e)
		}
		check(t, victim.Process.Kill())
		killed := time.Now()
		check(t, r.Vacant(t.Context(), instance("victim"))) // waits for its lease, as a successor does
		if e := <-events; e.RemovedID != "victim" {
			t.Fatalf("%+v, want it removed", e)
		}
		longest = max(longest, time.Since(killed))
	}
	figure(t, "key gone after kill -9 (lease of 5 s)", longest, 6500*time.Millisecond)
	leases, err := eye.Leases(t.Context())
	check(t, err)
	if len(leases.Leases) != 0 {
		t.Errorf("%d leases left", len(leases.Leases))
	}
}

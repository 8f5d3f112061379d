package soak

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/inferno-serve/inferno/internal/device/devicescript"
)

// childKey is the variable that makes a server of a test's program: how much memory it takes can be told only from outside its clients.
const childKey = "SOAK_SERVER"

// child is what such a program is told.
type child struct {
	settings
	Checkpoint string
}

// serveApart starts a server as a process of its own.
func serveApart(t testing.TB, s settings) *rig {
	t.Helper()
	told, err := json.Marshal(child{s, s.checkpoint(t)})
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childKey+"="+string(told))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // its end is the child's
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server's process: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the server's process says nothing: %v", err)
	}
	addresses := strings.Fields(line)
	return &rig{t: t, address: addresses[0], admin: addresses[1]}
}

// serveChild is main of that process.
func serveChild() int {
	var c child
	if err := json.Unmarshal([]byte(os.Getenv(childKey)), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	log := newLog()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		<-log.ready
		fmt.Println(log.value("grpc"), log.value("admin"))
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := c.run(ctx, log, devicescript.New(c.Device), c.Checkpoint, devicescript.Architectures()); err != nil {
		fmt.Fprintln(os.Stderr, err, log.text())
		return 1
	}
	return 0
}

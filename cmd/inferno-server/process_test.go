package main_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	infernov1 "github.com/inferno-serve/inferno/proto/inferno/v1"
)

// These tests run the program itself, as its users do: real sockets, signals and exit codes, and two clients that are not ours.

// tiny is a checkpoint of three layers with random weights, and its own tokenizer.
const tiny = "../../internal/model/testdata/llama"

var binary string

// TestMain builds the program, unless INFERNO_SERVER names one that is built.
func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	if binary = os.Getenv("INFERNO_SERVER"); binary != "" {
		return runWithoutLeaks(m)
	}
	dir, err := os.MkdirTemp("", "inferno-server-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "inferno-server")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-X main.version=test", "-o", binary, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build inferno-server:", err)
		return 1
	}
	return runWithoutLeaks(m)
}

func runWithoutLeaks(m *testing.M) int {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// process is a running server and what it has said.
type process struct {
	t           *testing.T
	cmd         *exec.Cmd
	grpc, admin string // addresses it listens on

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed, and made anew, with each line
	ended chan struct{} // closed when it has exited and all output is read
}

var listening = regexp.MustCompile(`msg=listening grpc=(\S+) admin=(\S+)`)

// startServer runs the server on the CPU, on ports of its choice, and returns once it listens.
func startServer(t *testing.T, args ...string) *process {
	t.Helper()
	return startProcess(t, nil, append(args, "--device=cpu")...)
}

// startProcess adds to the environment and leaves the device to args.
func startProcess(t *testing.T, environment []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, more: make(chan struct{}), ended: make(chan struct{})}
	p.cmd = exec.Command(binary, append([]string{"--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"}, args...)...)
	p.cmd.Env = append(os.Environ(), append(environment, "INFERNO_LOG_FORMAT=text")...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("the server said:\n%s", strings.Join(p.said(), "\n"))
		}
	})
	up := make(chan struct{})
	go p.read(stderr, up)
	select {
	case <-up:
	case <-p.ended:
		t.Fatalf("the server ended with %v before it listened", p.cmd.ProcessState)
	}
	return p
}

func (p *process) read(stderr io.Reader, up chan struct{}) {
	defer close(p.ended)
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			p.grpc, p.admin = m[1], m[2]
			close(up)
		}
	}
	_ = p.cmd.Wait() // its verdict is in ProcessState
}

func (p *process) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// waitSaid returns once a line has this text.
func (p *process) waitSaid(text string) {
	p.t.Helper()
	for {
		p.mu.Lock()
		more, lines := p.more, strings.Join(p.lines, "\n")
		p.mu.Unlock()
		if strings.Contains(lines, text) {
			return
		}
		select {
		case <-more:
		case <-p.ended:
			p.t.Fatalf("the server ended with %v and never said %q", p.cmd.ProcessState, text)
		}
	}
}

// waitServing returns once grpc-health-probe says SERVING; each try is a whole process, which is the pause between them.
func (p *process) waitServing() {
	p.t.Helper()
	for {
		if code, _ := p.probe(); code == 0 {
			return
		}
		select {
		case <-p.ended:
			p.t.Fatalf("the server ended with %v before it was SERVING", p.cmd.ProcessState)
		default:
		}
	}
}

func (p *process) probe(args ...string) (int, string) {
	p.t.Helper()
	return runTool(p.t, "grpc-health-probe", append([]string{"-addr=" + p.grpc}, args...)...)
}

// waitState reads HealthService.Watch until the whole is in the state, and returns that report.
func (p *process) waitState(want infernov1.HealthState) *infernov1.HealthReport {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	watch, err := infernov1.NewHealthServiceClient(p.dial()).Watch(ctx, &infernov1.WatchRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			p.t.Fatalf("waiting for %v: %v", want, err)
		}
		if m.GetReport().GetState() == want {
			return m.GetReport()
		}
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(2 * time.Minute):
		p.t.Fatal("the server has not ended in two minutes")
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) dial() *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (p *process) metrics() string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/metrics", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		p.t.Fatalf("metrics: %v %v", response.Status, err)
	}
	return string(text)
}

// runTool runs a program of bin/tools, or of PATH.
func runTool(t *testing.T, name string, args ...string) (int, string) {
	t.Helper()
	path := filepath.Join("..", "..", "bin", "tools", name)
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath(name); err != nil {
			t.Skipf("%s is not built: `make tools` builds it", name)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// runServer runs the server to its end and returns its exit code and all that it printed.
func runServer(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"--listen=127.0.0.1:0", "--admin-listen="}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

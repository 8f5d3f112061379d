// Package etcdtest runs real etcd servers for tests, one or a cluster of several processes, each behind a TCP proxy that goes wrong when it
// is told to. Servers keep their data in the test's folder, listen on loopback, and end with the test.
package etcdtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Cluster is the members of one etcd.
type Cluster struct {
	Members []*Member
	tls     *tls.Config // of the test's own clients; nil: none
}

// Member is one etcd server.
type Member struct {
	t       testing.TB
	name    string
	address string // of clients, without the proxy between
	args    []string
	tls     *tls.Config
	Proxy   *Proxy // what Endpoints names
	peers   *Proxy // by which the other members reach this one; nil: by none

	mu      sync.Mutex
	process *exec.Cmd // nil while it is down
	said    strings.Builder
}

// Start runs n members and waits until they answer. flags are more arguments of etcd.
func Start(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	return run(t, settings{members: n, scheme: "http"}, flags)
}

// StartParted is Start with lines between the members that Part can silence.
func StartParted(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	return run(t, settings{members: n, scheme: "http", parted: true}, flags)
}

// StartTLS runs one member that talks to clients which show a certificate of a's alone.
func StartTLS(t testing.TB, a *Authority) *Cluster {
	t.Helper()
	cert, key := a.Issue("etcd")
	mine, err := tls.LoadX509KeyPair(a.Issue("test"))
	if err != nil {
		t.Fatal(err)
	}
	clients := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: a.pool, Certificates: []tls.Certificate{mine}}
	return run(t, settings{members: 1, scheme: "https", clients: clients}, []string{"--cert-file", cert, "--key-file", key, "--trusted-ca-file", a.File, "--client-cert-auth"})
}

// settings are what clusters differ in.
type settings struct {
	members int
	scheme  string      // of clients
	clients *tls.Config // of the test's own; nil: none
	parted  bool        // peers talk through proxies
}

func run(t testing.TB, s settings, flags []string) *Cluster {
	t.Helper()
	program := find(t)
	c := &Cluster{tls: s.clients}
	var peers []string
	for i := range s.members {
		name, peer := fmt.Sprintf("m%d", i), freeAddress(t)
		m := &Member{t: t, name: name, address: freeAddress(t), tls: s.clients}
		m.Proxy = newProxy(t, m.address, nil)
		reached := peer
		if s.parted {
			m.peers = newProxy(t, peer, c.caller)
			reached = m.peers.Address()
		}
		peers = append(peers, name+"=http://"+reached)
		m.args = append([]string{
			program, "--name", name, "--data-dir", filepath.Join(t.TempDir(), name), "--unsafe-no-fsync", "--log-level", "error",
			"--listen-client-urls", s.scheme + "://" + m.address, "--advertise-client-urls", s.scheme + "://" + m.address,
			"--listen-peer-urls", "http://" + peer, "--initial-advertise-peer-urls", "http://" + reached,
		}, flags...)
		c.Members = append(c.Members, m)
	}
	for _, m := range c.Members {
		m.args = append(m.args, "--initial-cluster", strings.Join(peers, ","))
		m.Start()
		t.Cleanup(m.Kill)
	}
	for _, m := range c.Members {
		m.WaitReady()
	}
	return c
}

// find is the etcd program: on PATH, or where `make tools` builds it.
func find(t testing.TB) string {
	t.Helper()
	if program, err := exec.LookPath("etcd"); err == nil {
		return program
	}
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; folder != filepath.Dir(folder); folder = filepath.Dir(folder) {
		program := filepath.Join(folder, "bin", "tools", "etcd")
		if _, err := os.Stat(program); err == nil {
			return program
		}
	}
	t.Skip("no etcd on PATH nor in bin/tools; make bin/tools/etcd builds it")
	return ""
}

// Ports below those that the system hands out (from 32768 on Linux). A member starts, and comes back after a kill, some time after its port was
// chosen: one of the system's own would by then be another process's now and then, whose connections take hundreds a second.
const (
	firstPort = 12000
	numPorts  = 20000
)

// freeAddress is one on which nobody listens. A member that is killed comes back to it.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(numPorts)))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close() // nobody has connected
			return address
		}
	}
	t.Fatalf("no free port from %d to %d", firstPort, firstPort+numPorts-1)
	return ""
}

// Endpoints are the members' proxies.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.Proxy.Address())
	}
	return all
}

// Connections is how many clients' connections to the members are open, by way of Endpoints.
func (c *Cluster) Connections() (open int) {
	for _, m := range c.Members {
		open += m.Proxy.connections()
	}
	return open
}

// Client talks to the members themselves, as the test's own eye and hand.
func (c *Cluster) Client(t testing.TB) *clientv3.Client { return c.ClientAs(t, "", "") }

// ClientAs is Client with a user and password.
func (c *Cluster) ClientAs(t testing.TB, user, password string) *clientv3.Client {
	t.Helper()
	var endpoints []string
	for _, m := range c.Members {
		endpoints = append(endpoints, m.address)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: c.tls, Username: user, Password: password, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Leader is the member that leads now.
func (c *Cluster) Leader(t testing.TB) *Member {
	t.Helper()
	client := c.Client(t)
	for _, m := range c.Members {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		status, err := client.Status(ctx, m.address)
		cancel()
		if err == nil && status.Leader == status.Header.MemberId {
			return m
		}
	}
	t.Fatal("no member of the cluster leads")
	return nil
}

// Follower is a member that does not lead now.
func (c *Cluster) Follower(t testing.TB) *Member {
	t.Helper()
	leader := c.Leader(t)
	for _, m := range c.Members {
		if m != leader {
			return m
		}
	}
	t.Fatal("the only member leads")
	return nil
}

// Start runs the server; data of an earlier run is still there.
func (m *Member) Start() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	cmd := exec.Command(m.args[0], m.args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // not to outlive a test that is killed
	cmd.Stderr = &m.said
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.process = cmd
}

// Agrees is nil where the server answers with the agreement of the others.
func (m *Member) Agrees() error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.address}, TLS: m.tls, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = client.MemberList(ctx) // which takes that agreement
	if errors.Is(err, rpctypes.ErrUserEmpty) {
		return nil // it asks for a password
	}
	return err
}

// WaitReady returns once the server Agrees.
func (m *Member) WaitReady() {
	m.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := m.Agrees()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("etcd %s does not answer at %s: %v", m.name, m.address, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Pause stops the server as if its host had no power, and Resume lets it go on as if nothing had been.
func (m *Member) Pause() { m.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (m *Member) Resume() { m.signal(syscall.SIGCONT) }

func (m *Member) signal(s syscall.Signal) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.process.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
}

// Kill ends the server as a crash does. Idempotent.
func (m *Member) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return
	}
	_ = m.process.Process.Kill()
	_ = m.process.Wait() // that it was killed
	m.process = nil
	if m.t.Failed() && m.said.Len() > 0 {
		m.t.Logf("etcd %s said:\n%s", m.name, m.said.String())
	}
}

package etcdtest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// segment is what one packet carries, and what a proxy loses or delays as one.
const segment = 1460

// retransmission is the time after which TCP sends a lost packet again; it doubles with each loss of the same packet.
const retransmission = 200 * time.Millisecond

// Fault is what goes wrong between a client and a member, both ways.
type Fault struct {
	// Delay of each segment.
	Delay time.Duration
	// Loss is the share of segments that are lost, 0 to 1. TCP sends them again, so that what its users see of loss is time: a segment
	// that was lost k times in a row comes 200 ms · (2^k − 1) later, and all behind it wait.
	Loss float64
	// Silent lets nothing through, and nobody know.
	Silent bool
	// Cut closes connections at once.
	Cut bool
}

// Proxy passes connections to one member on.
type Proxy struct {
	listener net.Listener
	target   string
	caller   func(net.Conn) *Member // of a member's peers: who calls; nil for clients

	mu      sync.Mutex
	fault   Fault
	parted  map[*Member]bool // callers for whom the line is silent
	changed chan struct{}    // closed, and made anew, with each fault
	random  *rand.Rand
	open    map[net.Conn]struct{}
	clients int // connections that are being passed on
	ended   bool
	running sync.WaitGroup
}

func newProxy(t testing.TB, target string, caller func(net.Conn) *Member) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		listener: l, target: target, caller: caller, changed: make(chan struct{}), random: rand.New(rand.NewPCG(1, 2)), open: map[net.Conn]struct{}{},
	}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Address is where clients connect.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Set changes what goes wrong; the zero Fault is a good line. Connections that were open stay, but for Cut.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	p.fault = f
	p.tell()
	p.mu.Unlock()
	if f.Cut {
		p.closeAll()
	}
}

// part makes the line silent for these callers, and for no others.
func (p *Proxy) part(from map[*Member]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parted = from
	p.tell()
}

// tell has all that wait look at the faults again. The caller holds mu.
func (p *Proxy) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Redirect has new connections go to another member, and ends those that are open.
func (p *Proxy) Redirect(m *Member) {
	p.mu.Lock()
	p.target = m.address
	p.mu.Unlock()
	p.closeAll()
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.ended = true
	p.tell()
	p.mu.Unlock()
	_ = p.listener.Close()
	p.closeAll()
	p.running.Wait()
}

func (p *Proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.open {
		_ = conn.Close()
	}
}

// connections are those of clients that are open.
func (p *Proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clients
}

// now is the fault for a caller, and a channel that closes when it changes.
func (p *Proxy) now(caller *Member) (f Fault, changed <-chan struct{}, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f = p.fault
	f.Silent = f.Silent || p.parted[caller]
	return f, p.changed, p.ended
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	var caller *Member
	if p.caller != nil {
		caller = p.caller(client)
	}
	if f, _, _ := p.now(caller); f.Cut || !p.keep(client) {
		return
	}
	defer p.forget(client)
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	member, err := net.Dial("tcp", target)
	if err != nil || !p.keep(member) {
		return // the client sees its connection close, where without a proxy it would have been refused
	}
	defer p.forget(member)
	var ways sync.WaitGroup
	p.count(1)
	defer p.count(-1)
	ways.Go(func() { p.pass(client, member, caller) })
	p.pass(member, client, caller)
	ways.Wait()
}

func (p *Proxy) count(more int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients += more
}

func (p *Proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		_ = conn.Close()
		return false
	}
	p.open[conn] = struct{}{}
	return true
}

func (p *Proxy) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
	_ = conn.Close()
}

// parcel is a segment on its way.
type parcel struct {
	data []byte
	due  time.Time
}

// pass carries what from says over to to, in order, and ends both when one has ended.
func (p *Proxy) pass(from, to net.Conn, caller *Member) {
	defer from.Close()
	defer to.Close()
	way := make(chan parcel, 1024)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(way)
		p.read(from, way)
	})
	for parcel := range way {
		if !p.hold(parcel.due, caller) {
			break
		}
		if _, err := to.Write(parcel.data); err != nil {
			break
		}
	}
	_ = from.Close()
	for range way { // what was under way is gone with the connection
	}
	reading.Wait()
}

func (p *Proxy) read(from io.Reader, way chan<- parcel) {
	last := time.Time{}
	for {
		data := make([]byte, segment)
		n, err := from.Read(data)
		if n > 0 {
			due := time.Now().Add(p.lateness())
			if due.Before(last) { // no segment overtakes another
				due = last
			}
			last = due
			way <- parcel{data[:n], due}
		}
		if err != nil {
			return
		}
	}
}

// lateness is how much later than on a good line a segment comes.
func (p *Proxy) lateness() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := p.fault.Delay
	for again := retransmission; p.random.Float64() < p.fault.Loss && again < time.Minute; again *= 2 {
		late += again
	}
	return late
}

// hold waits until due, and as long as the line is silent. It is false when the proxy ends.
func (p *Proxy) hold(due time.Time, caller *Member) bool {
	for {
		f, changed, ended := p.now(caller)
		if ended || f.Cut {
			return false
		}
		var timer *time.Timer
		var late <-chan time.Time
		if !f.Silent {
			wait := time.Until(due)
			if wait <= 0 {
				return true
			}
			timer = time.NewTimer(wait)
			late = timer.C
		}
		select {
		case <-changed:
		case <-late:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

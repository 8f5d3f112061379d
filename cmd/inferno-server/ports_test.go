package main_test

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listeners are the sockets that a process listens on, as the kernel has them: tcp and udp by address, Unix ones by path.
func listeners(t *testing.T, pid int) (found []string) {
	t.Helper()
	mine := map[string]bool{}
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(folder)
	if err != nil {
		t.Skip("no list of the process's sockets here: ", err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(folder, fd.Name())); err == nil {
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				mine[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	lines := func(table string, do func(fields []string)) {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			return // no such protocol
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			do(strings.Fields(s.Text()))
		}
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		lines(table, func(fields []string) {
			const listen = "0A"
			if len(fields) < 10 || !mine[fields[9]] || strings.HasPrefix(table, "tcp") && fields[3] != listen {
				return
			}
			found = append(found, strings.TrimSuffix(table, "6")+" "+addressOfKernel(t, fields[1]))
		})
	}
	lines("unix", func(fields []string) {
		const accepting = "00010000"
		if len(fields) >= 7 && mine[fields[6]] && fields[3] == accepting {
			found = append(found, "unix "+strings.Join(fields[7:], " "))
		}
	})
	slices.Sort(found)
	return found
}

// addressOfKernel reads "0100007F:C351": words of four bytes in the machine's order, here the little end first.
func addressOfKernel(t *testing.T, text string) string {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	ip, _ := netip.AddrFromSlice(b)
	p, err := hex.DecodeString(port)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(p[0])<<8|uint16(p[1])).String()
}

// Side sockets without a lock ran code of strangers in other servers: CVE-2024-42479, CVE-2026-34159, CVE-2026-118375.
func TestNothingListensButWhatIsConfigured(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "grpc")
	for name, c := range map[string]struct {
		args []string
		want func(p *process) []string
	}{
		"both":          {nil, func(p *process) []string { return []string{"tcp " + p.grpc, "tcp " + p.admin} }},
		"gRPC alone":    {[]string{"--admin-listen="}, func(p *process) []string { return []string{"tcp " + p.grpc} }},
		"a Unix socket": {[]string{"--admin-listen=", "--listen=unix://" + socket}, func(*process) []string { return []string{"unix " + socket} }},
	} {
		t.Run(name, func(t *testing.T) {
			p := startServer(t, append([]string{"--model=tiny=" + tiny}, c.args...)...)
			p.waitSaid("model ready")
			want := c.want(p)
			slices.Sort(want)
			if got := listeners(t, p.cmd.Process.Pid); !slices.Equal(got, want) {
				t.Errorf("listening on %q, want %q", got, want)
			}
		})
	}
}

// The list above sees a socket that is not configured: else it could not fail.
func TestListenersSeesThisProcess(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	got := listeners(t, os.Getpid())
	for _, want := range []string{"tcp " + l.Addr().String(), "udp " + u.LocalAddr().String()} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not among %q", want, got)
		}
	}
}

package etcdtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Part silences all lines between these members and the others, both ways; clients reach every member as before. Without members all
// lines are good.
func (c *Cluster) Part(side ...*Member) {
	for _, to := range c.Members {
		from := map[*Member]bool{}
		for _, m := range c.Members {
			from[m] = slices.Contains(side, m) != slices.Contains(side, to)
		}
		to.peers.part(from)
	}
}

// caller is the member whose socket is at the other end of a connection: members call each other from whatever port they are given, and
// say nothing of themselves that all of their connections have in common.
func (c *Cluster) caller(conn net.Conn) *Member {
	inode := socketOf(conn.RemoteAddr().(*net.TCPAddr))
	for _, m := range c.Members {
		if inode != "" && m.has(inode) {
			return m
		}
	}
	return nil
}

// socketOf is the inode of the socket that has this address as its own, as Linux lists them (proc_net_tcp(5)).
func socketOf(own *net.TCPAddr) string {
	list, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer list.Close()
	ip := own.IP.To4()
	address := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], own.Port)
	for lines := bufio.NewScanner(list); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 9 && fields[1] == address {
			return fields[9]
		}
	}
	return ""
}

// has says whether the member's process holds a socket.
func (m *Member) has(inode string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return false
	}
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", m.process.Process.Pid))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(open, func(name string) bool {
		what, err := os.Readlink(name)
		return err == nil && what == "socket:["+inode+"]"
	})
}

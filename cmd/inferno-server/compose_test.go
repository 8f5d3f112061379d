package main_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/inferno-serve/inferno/client"
	"github.com/inferno-serve/inferno/internal/config"
	"github.com/inferno-serve/inferno/internal/discovery/etcd/etcdtest"
)

// composed are the commands of deploy/compose by service, with MODEL unset.
func composed(t *testing.T) map[string][]string {
	t.Helper()
	var file struct {
		Services map[string]struct{ Command []string }
	}
	// compose-go reads it whole in the tests of deploy/; here only what the programs are started with counts.
	text := readText(t, filepath.Join(deployFolder, "compose/compose.yaml"))
	if err := yaml.NewDecoder(bytes.NewReader([]byte(text))).Decode(&file); err != nil {
		t.Fatal(err)
	}
	variable := regexp.MustCompile(`\$\{[A-Z]+:-([^}]*)\}`)
	all := map[string][]string{}
	for name, s := range file.Services {
		if len(s.Command) > 0 {
			for _, argument := range s.Command {
				all[name] = append(all[name], variable.ReplaceAllString(argument, "$1"))
			}
		}
	}
	return all
}

func TestComposedServersTakeTheirFlags(t *testing.T) {
	for name, args := range composed(t) {
		if !strings.HasPrefix(name, "inferno-") {
			continue
		}
		if _, err := config.Load(args, "test", io.Discard); err != nil {
			t.Errorf("%s: %q: %v", name, args, err)
		}
	}
}

// elsewhere are the arguments that do not hold outside of the containers: addresses and places.
var elsewhere = regexp.MustCompile(`^--(listen|admin-listen|etcd-endpoints|model|data-dir|listen-client-urls|advertise-client-urls|log-level)=`)

// The fleet of deploy/compose, without containers: its etcd and its servers with their own arguments, but for addresses and the model.
func TestComposedFleetServes(t *testing.T) {
	commands := composed(t)
	here := func(service string) (args []string) {
		for _, a := range commands[service] {
			if strings.HasPrefix(a, "--") && !elsewhere.MatchString(a) {
				args = append(args, a)
			}
		}
		return args
	}
	c := etcdtest.Start(t, 1, here("etcd")...)
	servers := map[string]*process{}
	for _, service := range slices.Sorted(maps.Keys(commands)) {
		if service != "etcd" {
			servers[service] = startServer(t, append(here(service), "--model", "tiny="+tiny, "--etcd-endpoints", c.Endpoints()[0])...)
		}
	}
	if len(servers) != 2 {
		t.Fatalf("%d servers, want 2", len(servers))
	}
	for _, p := range servers {
		p.waitServing()
	}
	a, b := servers["inferno-a"], servers["inferno-b"]
	for _, p := range servers {
		p.waitInstances(2)
	}
	fleet, err := client.Dial("inferno:///tiny?etcd=" + c.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()
	request := func() {
		t.Helper()
		if _, err := fleet.Generate(context.WithoutCancel(t.Context()), generate(1)); err != nil {
			t.Fatal(err)
		}
	}
	taken := func(p *process) bool {
		return strings.Contains(p.metrics(), `inferno_requests_finished_total{model="tiny"`)
	}
	a.waitFor("both take requests", func() bool {
		request()
		return taken(a) && taken(b)
	})
	b.signal(syscall.SIGTERM)
	for ended := false; !ended; {
		request()
		select {
		case <-b.ended:
			ended = true
		default:
		}
	}
	request()
	if code := b.exit(); code != 0 {
		t.Errorf("the server that was stopped ended with %d, want 0", code)
	}
	a.waitInstances(1)
}

package deploy

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose reads deploy/compose as Docker Compose does: interpolated, merged and held to its schema.
func compose(t *testing.T, environment ...string) (*types.Project, error) {
	t.Helper()
	return composeOf(t, []string{"compose/compose.yaml"}, environment...)
}

func composeOf(t *testing.T, files []string, environment ...string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions(
		files, cli.WithEnv(environment), cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(context.Background())
}

// replicas are the services that run the server.
func replicas(t *testing.T) (*types.Project, []types.ServiceConfig) {
	t.Helper()
	project, err := compose(t, "MODELS="+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var all []types.ServiceConfig
	for _, name := range project.ServiceNames() {
		if strings.HasPrefix(name, "inferno-") {
			all = append(all, project.Services[name])
		}
	}
	if len(all) != 2 {
		t.Fatalf("%d replicas of %v, want 2", len(all), project.ServiceNames())
	}
	return project, all
}

// flagOf is the value of --name=value in a command.
func flagOf(t *testing.T, s types.ServiceConfig, name string) string {
	t.Helper()
	for _, argument := range s.Command {
		if value, ok := strings.CutPrefix(argument, "--"+name+"="); ok {
			return value
		}
	}
	t.Fatalf("%s has no --%s in %q", s.Name, name, s.Command)
	return ""
}

func portOf(t *testing.T, address string) uint32 {
	t.Helper()
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(port)
}

func TestComposeAsksForTheModels(t *testing.T) {
	if _, err := compose(t); err == nil || !strings.Contains(err.Error(), "MODELS") || !strings.Contains(err.Error(), "folder with the models") {
		t.Errorf("without MODELS: %v, want an error that says what it is", err)
	}
}

func TestComposedServicesHaveNoRights(t *testing.T) {
	project, _ := replicas(t)
	for name, s := range project.Services {
		user, _, _ := strings.Cut(s.User, ":")
		id, err := strconv.Atoi(user)
		for what, holds := range map[string]bool{
			"a user above 10000":              err == nil && id > 10000,
			"a root file system that is read": s.ReadOnly,
			"no capabilities":                 slices.Equal(s.CapDrop, []string{"ALL"}) && len(s.CapAdd) == 0,
			"no new privileges":               slices.Contains(s.SecurityOpt, "no-new-privileges"),
			"nothing of the host":             !s.Privileged && s.NetworkMode == "" && s.Pid == "" && s.Ipc == "",
		} {
			if !holds {
				t.Errorf("%s: want %s", name, what)
			}
		}
		for _, v := range s.Volumes {
			if !v.ReadOnly {
				t.Errorf("%s: volume %s can be written", name, v.Target)
			}
		}
	}
}

// Every port is published on loopback, once, and is one that the program behind it listens on.
func TestComposedPortsAreListenedOn(t *testing.T) {
	project, all := replicas(t)
	listen := regexp.MustCompile(`^--(?:admin-)?listen(?:-client-urls)?=(.*)`)
	published := map[string]string{}
	for name, s := range project.Services {
		var listens []uint32
		for _, argument := range s.Command {
			if m := listen.FindStringSubmatch(argument); m != nil {
				listens = append(listens, portOf(t, m[1]))
				if !strings.Contains(m[1], "0.0.0.0:") {
					t.Errorf("%s: nobody outside of the container reaches %s", name, argument)
				}
			}
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is published on %q, want 127.0.0.1", name, p.Published, p.HostIP)
			}
			if other, taken := published[p.Published]; taken {
				t.Errorf("port %s is published by %s and %s", p.Published, other, name)
			}
			published[p.Published] = name
			if !slices.Contains(listens, p.Target) {
				t.Errorf("%s: port %d is published, and the program listens on %v", name, p.Target, listens)
			}
		}
	}
	dockerfile := read(t, "../Dockerfile")
	exposed := strings.Fields(regexp.MustCompile(`(?m)^EXPOSE (.*)$`).FindStringSubmatch(dockerfile)[1])
	for _, s := range all {
		for _, p := range s.Ports {
			if !slices.Contains(exposed, strconv.Itoa(int(p.Target))) {
				t.Errorf("%s: port %d, of which the image knows nothing: %v", s.Name, p.Target, exposed)
			}
		}
		host, _, _ := net.SplitHostPort(flagOf(t, s, "etcd-endpoints"))
		etcd, there := project.Services[host]
		if !there || portOf(t, flagOf(t, s, "etcd-endpoints")) != portOf(t, flagOf(t, etcd, "listen-client-urls")) ||
			portOf(t, flagOf(t, etcd, "advertise-client-urls")) != portOf(t, flagOf(t, etcd, "listen-client-urls")) {
			t.Errorf("%s: etcd is looked for at %s, and listens on %q", s.Name, flagOf(t, s, "etcd-endpoints"), etcd.Command)
		}
		if s.DependsOn[host].Condition != types.ServiceConditionHealthy || etcd.HealthCheck == nil {
			t.Errorf("%s does not wait until etcd is healthy", s.Name)
		}
	}
}

// The image is the one of the Dockerfile, etcd the version that the tests run, and the model below the folder that is mounted.
func TestComposedImagesAreNamed(t *testing.T) {
	project, all := replicas(t)
	for _, s := range append(all, project.Services["tool"]) {
		if s.Image == "" || s.Build == nil {
			t.Fatalf("%s: image %q, build %v", s.Name, s.Image, s.Build)
		}
		if _, err := os.Stat(filepath.Join(s.Build.Context, "Dockerfile")); err != nil {
			t.Error(err)
		}
	}
	version := regexp.MustCompile(`(?m)go\.etcd\.io/etcd/server/v3 (v\S+)`).FindStringSubmatch(read(t, "../tools/go.mod"))
	if image := project.Services["etcd"].Image; version == nil || !strings.HasSuffix(image, "/etcd:"+version[1]) {
		t.Errorf("etcd is %s, the tests run %v", image, version)
	}
	for _, s := range all {
		_, path, _ := strings.Cut(flagOf(t, s, "model"), "=")
		if len(s.Volumes) != 1 || !strings.HasPrefix(path, s.Volumes[0].Target+"/") {
			t.Errorf("%s: the model is %s, mounted is %v", s.Name, path, s.Volumes)
		}
	}
}

func TestComposedReplicasOutlastTheirDrain(t *testing.T) {
	_, all := replicas(t)
	for _, s := range all {
		var drain time.Duration
		for _, name := range []string{"drain-delay", "drain-timeout"} {
			d, err := time.ParseDuration(flagOf(t, s, name))
			if err != nil {
				t.Fatal(err)
			}
			drain += d
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= drain {
			t.Errorf("%s is killed after %v, and may drain for %v", s.Name, s.StopGracePeriod, drain)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

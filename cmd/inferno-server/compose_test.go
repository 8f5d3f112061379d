package main_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/inferno-serve/inferno/internal/config"
)

// composeFile is what deploy/compose uses of the Compose format. A key that is not here is an error: a misspelt one would be no protection.
type composeFile struct {
	Name     string
	Services map[string]composeService
	Configs  map[string]struct{ Content string }
}

type composeService struct {
	Image, Restart string
	Build          struct {
		Context, Target string
		Args            map[string]string
	}
	Command, Ports, Volumes, Profiles []string
	ReadOnly                          bool           `yaml:"read_only"`
	CapDrop                           []string       `yaml:"cap_drop"`
	SecurityOpt                       []string       `yaml:"security_opt"`
	PidsLimit                         int            `yaml:"pids_limit"`
	ULimits                           map[string]int `yaml:"ulimits"`
	StopGracePeriod                   string         `yaml:"stop_grace_period"`
	Configs                           []struct{ Source, Target string }
	Deploy                            struct {
		Resources struct {
			Reservations struct {
				Devices []struct {
					Driver       string
					Count        int
					Capabilities []string
				}
			}
		}
	}
}

func readCompose(t *testing.T, name string) (f composeFile) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(readText(t, filepath.Join(deployFolder, "compose", name)))))
	decoder.KnownFields(true)
	if err := decoder.Decode(&f); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return f
}

// TestComposeStartsAServerThatIsKeptApart holds deploy/compose to the server's own settings, and to what the image allows.
func TestComposeStartsAServerThatIsKeptApart(t *testing.T) {
	f := readCompose(t, "compose.yaml")
	s := f.Services["inferno"]
	c, err := config.Load(s.Command, "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(c.Listen, ":")
	if strings.HasPrefix(c.Listen, "127.") || strings.HasPrefix(c.AdminListen, "127.") || !slices.Equal(s.Ports, []string{"127.0.0.1:" + port + ":" + port}) {
		t.Errorf("listens on %s and %s, published %q: want the services' port on loopback alone", c.Listen, c.AdminListen, s.Ports)
	}
	if grace, err := time.ParseDuration(s.StopGracePeriod); err != nil || grace < c.DrainDelay+c.DrainTimeout+5*time.Second {
		t.Errorf("stop_grace_period %v %v, want 5 s beyond a drain of %v", grace, err, c.DrainDelay+c.DrainTimeout)
	}
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.PidsLimit == 0 ||
		len(s.Volumes) != 1 || !strings.HasSuffix(s.Volumes[0], ":/models:ro") || s.ULimits["core"] != 0 {
		t.Errorf("%+v, want a file system that is read only, no capabilities, no new ones, a limit of processes, no dump", s)
	}
	for _, m := range c.Models {
		if !strings.HasPrefix(m.Path, "/models/") {
			t.Errorf("model %s is at %s, which is not mounted", m.Name, m.Path)
		}
	}
	stages := readText(t, "../../Dockerfile")
	for _, name := range []string{"compose.yaml", "cuda.yaml"} {
		if target := readCompose(t, name).Services["inferno"].Build.Target; !strings.Contains(stages, " AS "+target+"\n") {
			t.Errorf("%s: the Dockerfile has no target %q", name, target)
		}
	}
}

// TestComposeMonitorsTheServer follows what Prometheus and Grafana are given to the files of this folder.
func TestComposeMonitorsTheServer(t *testing.T) {
	f := readCompose(t, "compose.yaml")
	for name, s := range f.Services {
		for _, v := range s.Volumes {
			if host, _, _ := strings.Cut(v, ":"); strings.HasPrefix(host, "..") {
				if _, err := os.Stat(filepath.Join(deployFolder, "compose", host)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s, want loopback alone", name, p)
			}
		}
		for _, c := range s.Configs {
			if f.Configs[c.Source].Content == "" {
				t.Errorf("%s: there is no %s", name, c.Source)
			}
		}
	}
	var scrapes struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string                       `yaml:"job_name"`
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(f.Configs["prometheus"].Content), &scrapes); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(f.Services["inferno"].Command, "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(c.AdminListen, ":")
	job := scrapes.ScrapeConfigs[0]
	if !strings.Contains(job.JobName, "inferno") || !slices.Equal(job.StaticConfigs[0].Targets, []string{"inferno:" + port}) {
		t.Errorf("%+v, want a job that the alerts know, of the admin listener", job)
	}
	mounted := strings.Join(f.Services["prometheus"].Volumes, " ")
	if len(scrapes.RuleFiles) != 1 || !strings.Contains(mounted, ":"+scrapes.RuleFiles[0]+":ro") {
		t.Errorf("rules at %q, mounted %q", scrapes.RuleFiles, mounted)
	}
}

// TestComposeFilesAreTakenByCompose asks the program itself, where there is one.
func TestComposeFilesAreTakenByCompose(t *testing.T) {
	if err := exec.Command("docker", "compose", "version").Run(); err != nil {
		t.Skip("no docker compose: nobody but this test has read the files")
	}
	folder := filepath.Join(deployFolder, "compose")
	cmd := exec.Command("docker", "compose", "-f", filepath.Join(folder, "compose.yaml"), "-f", filepath.Join(folder, "cuda.yaml"), "--profile",
		"monitoring", "config", "-q")
	cmd.Env = append(os.Environ(), "MODELS=/models")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

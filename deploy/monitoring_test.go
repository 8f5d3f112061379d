package deploy

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/yaml"
)

// TestComposedMonitoringFindsTheReplicas follows what Prometheus and Grafana are given, to the replicas and to the files of this folder.
func TestComposedMonitoringFindsTheReplicas(t *testing.T) {
	_, servers := replicas(t)
	project, err := composeOf(t, []string{"compose/compose.yaml", "compose/monitoring.yaml"}, "MODELS="+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"prometheus", "grafana"} {
		s := project.Services[name]
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %s on %q, want loopback alone", name, p.Published, p.HostIP)
			}
			for other, o := range project.Services {
				if other != name && slices.ContainsFunc(o.Ports, func(q types.ServicePortConfig) bool { return q.Published == p.Published }) {
					t.Errorf("%s and %s both publish %s", name, other, p.Published)
				}
			}
		}
		for _, v := range s.Volumes {
			if info, err := os.Stat(v.Source); err != nil || info.IsDir() || !v.ReadOnly {
				t.Errorf("%s: %s (%v), want a file that is only read", name, v.Source, err)
			}
		}
		if len(s.Networks) != 1 || len(s.Networks) != len(servers[0].Networks) {
			t.Errorf("%s is in networks %v, the replicas in %v", name, s.Networks, servers[0].Networks)
		}
	}
	var scrapes struct {
		RuleFiles     []string `json:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `json:"job_name"`
			StaticConfigs []struct {
				Targets []string `json:"targets"`
			} `json:"static_configs"`
		} `json:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(project.Configs["prometheus"].Content), &scrapes); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, s := range servers {
		want = append(want, s.Name+":"+strconv.Itoa(int(portOf(t, flagOf(t, s, "admin-listen")))))
	}
	job := scrapes.ScrapeConfigs[0]
	if !strings.Contains(job.JobName, "inferno") || !slices.Equal(job.StaticConfigs[0].Targets, want) {
		t.Errorf("%+v, want a job that the alerts know, of %q", job, want)
	}
	rules := func(v types.ServiceVolumeConfig) bool { return slices.Equal(scrapes.RuleFiles, []string{v.Target}) }
	if !slices.ContainsFunc(project.Services["prometheus"].Volumes, rules) {
		t.Errorf("the rules at %q are not mounted", scrapes.RuleFiles)
	}
}

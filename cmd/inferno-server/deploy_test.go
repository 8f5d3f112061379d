package main_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// scraped is what a running server's metrics look like.
type scraped struct {
	kinds  map[string]string          // of families: counter, gauge, histogram
	labels map[string]map[string]bool // that series of a name have
}

var (
	typeLine   = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)
	seriesLine = regexp.MustCompile(`(?m)^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$`)
	labelName  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"`)
)

func readScrape(page string) scraped {
	s := scraped{map[string]string{}, map[string]map[string]bool{}}
	for _, m := range typeLine.FindAllStringSubmatch(page, -1) {
		s.kinds[m[1]] = m[2]
	}
	for _, m := range seriesLine.FindAllStringSubmatch(page, -1) {
		if s.labels[m[1]] == nil {
			s.labels[m[1]] = map[string]bool{"instance": true, "job": true} // Prometheus adds them
		}
		for _, label := range labelName.FindAllStringSubmatch(m[2], -1) {
			s.labels[m[1]][label[1]] = true
		}
	}
	// Prometheus's own, of each target.
	s.kinds["up"], s.labels["up"] = "gauge", map[string]bool{"instance": true, "job": true}
	return s
}

// check reads an expression against what the server has.
func (s scraped) check(t *testing.T, where, expression string) {
	t.Helper()
	selectors, kind, err := readPromQL(expression)
	if err != nil || kind != vector || len(selectors) == 0 {
		t.Errorf("%s: %s\nis %s: %v", where, expression, kind, err)
		return
	}
	for _, selector := range selectors {
		labels, ok := s.labels[selector.name]
		if !ok {
			t.Errorf("%s: a running server has no %s", where, selector.name)
			continue
		}
		for _, l := range selector.labels {
			if !labels[l] {
				t.Errorf("%s: %s has no label %s, but %v", where, selector.name, l, slices.Sorted(maps.Keys(labels)))
			}
		}
		if counts := s.counts(selector.name); counts != selector.inRate {
			t.Errorf("%s: %s counts: %v, rate or increase of it: %v", where, selector.name, counts, selector.inRate)
		}
	}
}

// counts tells series that only grow.
func (s scraped) counts(name string) bool {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if family, ok := strings.CutSuffix(name, suffix); ok && s.kinds[family] == "histogram" {
			return true
		}
	}
	return s.kinds[name] == "counter"
}

// TestDashboardAndAlertsReadMetricsThatAreThere holds deploy/ to what a running server tells.
func TestDashboardAndAlertsReadMetricsThatAreThere(t *testing.T) {
	s := everything(t)
	t.Run("alerts", func(t *testing.T) { checkAlerts(t, s) })
	t.Run("dashboard", func(t *testing.T) { checkDashboard(t, s) })
	t.Run("a metric that is not there", func(t *testing.T) {
		for _, name := range []string{"inferno_no_such_total", "vllm:num_requests_running"} {
			if _, ok := s.labels[name]; ok {
				t.Errorf("the server has %s", name)
			}
		}
	})
}

type alertRule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

var (
	alertName     = regexp.MustCompile(`^Inferno[A-Z][A-Za-z]+$`)
	templateLabel = regexp.MustCompile(`\{\{ \$labels\.([a-z_]+) \}\}`)
	templateValue = regexp.MustCompile(`\{\{ \$value(?: \| humanizePercentage)? \}\}`)
)

func checkAlerts(t *testing.T, s scraped) {
	text, err := os.ReadFile("../../deploy/prometheus/inferno.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string      `yaml:"name"`
			Rules []alertRule `yaml:"rules"`
		} `yaml:"groups"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, group := range file.Groups {
		if group.Name == "" || seen[group.Name] || len(group.Rules) == 0 {
			t.Errorf("group %q is empty, or there twice", group.Name)
		}
		seen[group.Name] = true
		for _, rule := range group.Rules {
			if !alertName.MatchString(rule.Alert) || seen[rule.Alert] {
				t.Errorf("alert %q: name is unusual, or there twice", rule.Alert)
			}
			seen[rule.Alert] = true
			if rule.For != "" && !promTime.MatchString(rule.For) {
				t.Errorf("%s: for %q, want a time such as 5m", rule.Alert, rule.For)
			}
			if severity := rule.Labels["severity"]; severity != "critical" && severity != "warning" {
				t.Errorf("%s: severity %q, want critical or warning", rule.Alert, severity)
			}
			s.check(t, rule.Alert, rule.Expr)
			s.checkTexts(t, rule)
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d groups and alerts", len(seen))
	}
}

// checkTexts sees that a text's labels are those that the expression leaves.
func (s scraped) checkTexts(t *testing.T, rule alertRule) {
	t.Helper()
	selectors, _, err := readPromQL(rule.Expr)
	if err != nil || len(selectors) == 0 {
		return // told before
	}
	has := func(label string) bool {
		if strings.HasPrefix(rule.Expr, "sum") || strings.HasPrefix(rule.Expr, "histogram_quantile") {
			return slices.Contains(selectors[0].labels, label)
		}
		return s.labels[selectors[0].name][label]
	}
	for _, key := range []string{"summary", "description"} {
		text := rule.Annotations[key]
		if text == "" {
			t.Errorf("%s has no %s", rule.Alert, key)
		}
		for _, m := range templateLabel.FindAllStringSubmatch(text, -1) {
			if !has(m[1]) {
				t.Errorf("%s: its %s names the label %s, which the expression does not leave", rule.Alert, key, m[1])
			}
		}
		if rest := templateValue.ReplaceAllString(templateLabel.ReplaceAllString(text, ""), ""); strings.Contains(rest, "{{") {
			t.Errorf("%s: its %s has a template that is not known: %s", rule.Alert, key, rest)
		}
	}
}

func checkDashboard(t *testing.T, s scraped) {
	text, err := os.ReadFile("../../deploy/grafana/inferno.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title, UID string
		Panels     []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  struct{ X, Y, W, H int }
			Targets                  []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct {
				Name, Type string
				Query      any
			}
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	variables := map[string]bool{"__rate_interval": true}
	for _, v := range board.Templating.List {
		variables[v.Name] = true
		if query, ok := v.Query.(map[string]any); ok {
			q, _ := query["query"].(string)
			name, label, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(q, "label_values("), ")"), ", ")
			if !s.labels[name][label] {
				t.Errorf("variable %s: %s, and the server has no label %s of %s", v.Name, q, label, name)
			}
		}
	}
	variable := regexp.MustCompile(`\$\{?([a-z_]+)\}?`)
	ids, drawn := map[int]bool{}, 0
	for _, panel := range board.Panels {
		if ids[panel.ID] || panel.GridPos.X+panel.GridPos.W > 24 || panel.GridPos.W < 1 || panel.Title == "" {
			t.Errorf("panel %d %q: its id is there twice, or it lies outside", panel.ID, panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			drawn++
			for _, m := range variable.FindAllStringSubmatch(target.Expr, -1) {
				if !variables[m[1]] {
					t.Errorf("%s: no variable %s", panel.Title, m[1])
				}
			}
			s.check(t, panel.Title, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
			if target.LegendFormat == "" {
				t.Errorf("%s: a curve has no name", panel.Title)
			}
		}
	}
	if board.UID == "" || drawn < 30 {
		t.Errorf("dashboard %q draws %d curves", board.UID, drawn)
	}
}

// TestGatewaysFindVLLMsNames: what the gateway's endpoint picker reads is there when it is asked for.
func TestGatewaysFindVLLMsNames(t *testing.T) {
	p := startServer(t, "--model", "tiny="+tiny, "--metrics-compat=vllm")
	p.waitServing()
	s := readScrape(p.metrics())
	for name, labels := range map[string][]string{
		"vllm:num_requests_waiting": {"model_name"}, "vllm:num_requests_running": {"model_name"}, "vllm:kv_cache_usage_perc": {"model_name"},
		"vllm:cache_config_info": {"model_name", "block_size", "num_gpu_blocks"},
	} {
		for _, l := range labels {
			if s.kinds[name] != "gauge" || !s.labels[name][l] {
				t.Errorf("%s is a %q with labels %v, want a gauge with %s", name, s.kinds[name], s.labels[name], l)
			}
		}
	}
	if s.labels["inferno_requests_running"] == nil {
		t.Error("its own names are gone")
	}
}

// TestEveryMetricIsDocumented holds docs/metrics.md to what a running server tells, both ways.
func TestEveryMetricIsDocumented(t *testing.T) {
	s := everything(t)
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`inferno_[^|]*) \\| ([a-z]+) \\|").FindAllStringSubmatch(string(text), -1) {
		for _, name := range regexp.MustCompile("`(inferno_[a-z0-9_]+)`").FindAllStringSubmatch(row[1], -1) {
			documented[name[1]] = row[2]
		}
	}
	for name, kind := range s.kinds {
		if strings.HasPrefix(name, "inferno_") && documented[name] != kind {
			t.Errorf("docs/metrics.md has %s as %q, a running server as %q", name, documented[name], kind)
		}
	}
	for name := range documented {
		if s.kinds[name] == "" {
			t.Errorf("docs/metrics.md has %s, a running server has not", name)
		}
	}
}

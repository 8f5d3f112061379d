package main_test

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/inferno-serve/inferno/internal/config"
)

const (
	deployFolder  = "../../deploy"
	releaseFolder = "../../bin/release"
)

// TestManifestsConfigureTheServer reads what Kubernetes' manifests give the server, as it would itself.
func TestManifestsConfigureTheServer(t *testing.T) {
	base := []string{"--config", filepath.Join(deployFolder, "kubernetes/base/inferno.yaml")}
	all := slices.Clone(base)
	components, err := filepath.Glob(filepath.Join(deployFolder, "kubernetes/components/*/kustomization.yaml"))
	if err != nil || len(components) == 0 {
		t.Fatalf("components: %v, %v", components, err)
	}
	argument := regexp.MustCompile(`args/-, value: (--[^}]+)\}`)
	for _, name := range components {
		for _, m := range argument.FindAllStringSubmatch(readText(t, name), -1) {
			all = append(all, m[1])
		}
	}
	if len(all) < len(base)+3 {
		t.Errorf("the components add only %q", all[len(base):])
	}
	for _, args := range [][]string{base, all} {
		c, err := config.Load(args, "test", io.Discard)
		if err != nil {
			t.Errorf("%q: %v", args, err)
			continue
		}
		for flag, address := range map[string]string{"listen": c.Listen, "admin-listen": c.AdminListen} {
			if strings.HasPrefix(address, "127.") {
				t.Errorf("%s: nobody outside of the pod reaches %s", flag, address)
			}
		}
	}
}

// TestAutoscalerReadsMetricsThatAreThere: of names that nobody tells the sum is nothing, for ever.
func TestAutoscalerReadsMetricsThatAreThere(t *testing.T) {
	text := readText(t, filepath.Join(deployFolder, "kubernetes/components/autoscaling/scaledobject.yaml"))
	names := regexp.MustCompile(`inferno_[a-z_]+`).FindAllString(text, -1)
	if len(names) < 3 {
		t.Fatalf("the queries name only %q", names)
	}
	p := startServer(t, "--model", "tiny="+tiny)
	p.waitServing()
	page := p.metrics()
	for _, name := range names {
		if !regexp.MustCompile(`(?m)^` + name + `[{ ]`).MatchString(page) {
			t.Errorf("a running server has no %s", name)
		}
	}
}

// TestUnitIsTakenAndOutlastsTheDrain has systemd's own reader look at the unit.
func TestUnitIsTakenAndOutlastsTheDrain(t *testing.T) {
	unit := readText(t, filepath.Join(deployFolder, "systemd/inferno.service"))
	value := func(key string) string {
		m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(unit)
		if m == nil {
			t.Fatalf("the unit has no %s", key)
		}
		return m[1]
	}
	c, err := config.Load([]string{"--model=m=/m"}, "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := time.ParseDuration(value("TimeoutStopSec"))
	if err != nil || stop < c.DrainDelay+c.DrainTimeout+5*time.Second {
		t.Errorf("TimeoutStopSec: %v %v, want 5 s beyond a drain of %v", stop, err, c.DrainDelay+c.DrainTimeout)
	}
	if got := value("RestartPreventExitStatus"); got != "2" {
		t.Errorf("RestartPreventExitStatus: %s, want 2: what cannot be served does not become servable", got)
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze: systemd has not read the unit")
	}
	server, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "inferno.service")
	installed := strings.ReplaceAll(unit, "/usr/local/bin/inferno-server", server)
	if err := os.WriteFile(name, []byte(installed), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", name).CombinedOutput()
	if err != nil || strings.Contains(string(out), "inferno.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// The exposure is from 0, none, to 10; the threshold is in tenths.
	if out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", name).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// TestEveryAlertHasItsAdvice compares the page's table with the rules.
func TestEveryAlertHasItsAdvice(t *testing.T) {
	rules := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(readText(t, filepath.Join(deployFolder, "prometheus/inferno.rules.yaml")), -1)
	advice := regexp.MustCompile("(?m)^\\| `(Inferno\\w+)` \\| .{40}").FindAllStringSubmatch(readText(t, "../../docs/operations.md"), -1)
	names := func(matches [][]string) (found []string) {
		for _, m := range matches {
			found = append(found, m[1])
		}
		slices.Sort(found)
		return found
	}
	if want, got := names(rules), names(advice); len(want) == 0 || !slices.Equal(want, got) {
		t.Errorf("advice for %q, want it for %q", got, want)
	}
}

// bill is what these tests read of a bill of materials.
type bill struct {
	BOMFormat, SpecVersion string
	Components             []struct {
		Type, Name, Version, PURL string
		Licenses                  []struct{ Expression string }
		Hashes                    []struct{ Alg, Content string }
		Properties                []struct{ Name, Value string }
	}
}

// TestBillOfMaterialsIsOfTheProgramsShipped compares it with what Go's own reader finds in the programs.
func TestBillOfMaterialsIsOfTheProgramsShipped(t *testing.T) {
	doc := filepath.Join(releaseFolder, "share/doc/inferno")
	if _, err := os.Stat(doc); err != nil {
		t.Skip("bin/release is not there (make release)")
	}
	var b bill
	if err := json.Unmarshal([]byte(readText(t, filepath.Join(doc, "sbom.cdx.json"))), &b); err != nil {
		t.Fatal(err)
	}
	if b.BOMFormat != "CycloneDX" || b.SpecVersion != "1.6" {
		t.Errorf("it is %s %s", b.BOMFormat, b.SpecVersion)
	}
	want := map[string]string{} // purl or file to checksum
	for _, name := range []string{"bin/inferno-server", "bin/inferno"} {
		info, err := buildinfo.ReadFile(filepath.Join(releaseFolder, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(readText(t, filepath.Join(releaseFolder, name))))
		want[name] = hex.EncodeToString(sum[:])
		want["pkg:golang/std@"+strings.TrimPrefix(info.GoVersion, "go")] = ""
		for _, dep := range info.Deps {
			want["pkg:golang/"+dep.Path+"@"+dep.Version] = dep.Sum
			if texts, err := os.ReadDir(filepath.Join(doc, "licenses", dep.Path)); err != nil || len(texts) == 0 {
				t.Errorf("no licence of %s goes along: %v", dep.Path, err)
			}
		}
	}
	for _, c := range b.Components {
		key, sum := c.PURL, ""
		for _, p := range c.Properties {
			if p.Name == "go:sum" {
				sum = p.Value
			}
		}
		if c.Type == "file" {
			key = c.Name
			for _, h := range c.Hashes {
				sum = h.Content
			}
		} else if len(c.Licenses) != 1 || c.Licenses[0].Expression == "" {
			t.Errorf("%s has no licence", key)
		}
		expected, ok := want[key]
		if !ok || sum != expected {
			t.Errorf("%s %s, want %q of what the programs hold", key, sum, expected)
		}
		delete(want, key)
	}
	for key := range want {
		t.Errorf("%s is not in the bill", key)
	}
}

// TestReleaseTellsItsCommit: an answer to which build this is has to name the commit, tag or no tag.
func TestReleaseTellsItsCommit(t *testing.T) {
	server := filepath.Join(releaseFolder, "bin/inferno-server")
	if _, err := os.Stat(server); err != nil {
		t.Skip("bin/release is not there (make release)")
	}
	for _, name := range []string{"inferno-server", "inferno"} {
		out, err := exec.Command(filepath.Join(releaseFolder, "bin", name), "--version").CombinedOutput()
		if err != nil || !regexp.MustCompile(`^(v\d+\.\d+\.\d+-\d+-g)?[0-9a-f]{12}(-dirty)?\n$`).Match(out) {
			t.Errorf("%s --version: %q %v, want a tag and a commit, or a commit", name, out, err)
		}
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

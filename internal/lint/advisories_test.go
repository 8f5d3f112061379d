package lint

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// advisory is how a test names what went wrong in another project.
var advisory = regexp.MustCompile(`\b(CVE-\d{4}-\d{4,}|GHSA(-[0-9a-z]{4}){3}|GO-\d{4}-\d+|PYSEC-\d{4}-\d+)\b`)

// Each advisory that touches what this project does has a test that bears its number; there were 70 when this was written.
func TestAdvisoriesHaveTests(t *testing.T) {
	named := map[string]bool{}
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, id := range advisory.FindAllString(string(text), -1) {
			named[id] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(named) < 60 {
		t.Errorf("tests name %d advisories, want at least 60: one was removed with its number", len(named))
	}
	t.Logf("%d advisories are named", len(named))
}

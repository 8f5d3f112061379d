package lint

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPTXIsOfTheNewestCard: newer cards than those of a library's machine code run the PTX that it holds.
func TestPTXIsOfTheNewestCard(t *testing.T) {
	for archs, want := range map[string]string{"90a": "", "80": "compute_80", "80 89 90a 100": "compute_100", "120 100 90a": "compute_120"} {
		out := t.TempDir()
		dry := exec.Command("make", "-n", "-C", filepath.Join("..", "..", "kernels", "cuda"), "CUDA=/none", "CUDA_ARCHS="+archs,
			"BUILD="+filepath.Join(out, "objects"), "OUT="+filepath.Join(out, "library.so"))
		said, err := dry.CombinedOutput()
		if err != nil {
			t.Fatalf("make -n for %s: %v\n%s", archs, err, said)
		}
		compiled := 0
		for line := range strings.Lines(string(said)) {
			if !strings.Contains(line, "nvcc") {
				continue
			}
			compiled++
			ptx := ""
			for word := range strings.FieldsSeq(line) {
				if _, code, found := strings.Cut(word, ",code=compute_"); found {
					ptx += "compute_" + code
				}
			}
			if ptx != want {
				t.Fatalf("for %s PTX of %q is made, want %q:\n%s", archs, ptx, want, line)
			}
		}
		if compiled == 0 {
			t.Errorf("nothing is compiled for %s:\n%s", archs, said)
		}
	}
}

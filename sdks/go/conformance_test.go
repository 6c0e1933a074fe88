package turnpike

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// watched are the flags that the app of the scenarios is built with: those of `go test` itself.
var watched []string

// TestEveryScenarioHolds plays the scenarios that all SDKs share: crashes, outages, refusals, full spools, two processes.
func TestEveryScenarioHolds(t *testing.T) {
	app := filepath.Join(t.TempDir(), "app")
	build := append(append([]string{"build"}, watched...), "-o", app, "./internal/conformance")
	if output, err := exec.Command("go", build...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	t.Setenv("GORACE", "halt_on_error=1")
	output, err := exec.Command("python3", "../conformance/drive.py", "--app", app).CombinedOutput()
	if err != nil || !strings.Contains(string(output), " 0 do not") {
		t.Fatalf("%v\n%s", err, output)
	}
}

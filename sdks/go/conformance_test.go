package turnpike

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryScenarioHolds plays the scenarios that all SDKs share: crashes, outages, refusals, full spools, two processes.
func TestEveryScenarioHolds(t *testing.T) {
	app := filepath.Join(t.TempDir(), "app")
	if output, err := exec.Command("go", "build", "-o", app, "./internal/conformance").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	output, err := exec.Command("python3", "../conformance/drive.py", "--app", app).CombinedOutput()
	if err != nil || !strings.Contains(string(output), " 0 do not") {
		t.Fatalf("%v\n%s", err, output)
	}
}

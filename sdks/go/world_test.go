package turnpike

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var silent = slog.NewTextHandler(io.Discard, nil)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(silent))
	os.Exit(m.Run())
}

// shortFolder is a folder whose sockets have short addresses.
func shortFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "turnpike-sdk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return folder
}

// awayOptions are those of a middleware whose door is away: what it records stays in the spool.
func awayOptions(t *testing.T) Options {
	t.Helper()
	return Options{
		URL: "http://127.0.0.1:1", Key: "tps_test", Source: "/gateways/test", SpoolFolder: shortFolder(t),
		Subject: func(*http.Request) string { return "sub-1" }, Backoff: time.Minute, Shutdown: 200 * time.Millisecond,
	}
}

func make_(t *testing.T, options Options) *Middleware {
	t.Helper()
	m, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// spooled returns the events in a spool's segments, whoever wrote them.
func spooled(t *testing.T, folder string) []event {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	var found []event
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range decode(text) {
			decoder := json.NewDecoder(bytes.NewReader(one.event))
			var read event
			if err := decoder.Decode(&read); err != nil {
				t.Fatal(err)
			}
			found = append(found, read)
		}
	}
	return found
}

func serve(t *testing.T, m *Middleware, handler http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(m.Handler(handler))
	server.Config.ErrorLog = slog.NewLogLogger(silent, slog.LevelError)
	server.Start()
	t.Cleanup(server.Close)
	return server
}

func until(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

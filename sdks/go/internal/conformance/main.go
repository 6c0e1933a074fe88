// Command conformance is the app the conformance scenarios call: the routes of shapes.json on http.ServeMux.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	turnpike "turnpike.example/sdks/go"
)

const ok = "{\"ok\": true}\n"

var (
	mutex sync.Mutex
	told  = [][2]string{}
)

type settings struct {
	SpoolBytesMax     int64   `json:"spool_bytes_max"`
	Durability        string  `json:"durability"`
	WhenFull          string  `json:"when_full"`
	Wait              float64 `json:"wait_seconds"`
	MemoryEventsMax   int     `json:"memory_events_max"`
	Flush             float64 `json:"flush_seconds"`
	Timeout           float64 `json:"timeout_seconds"`
	Backoff           float64 `json:"backoff_seconds"`
	BackoffMax        float64 `json:"backoff_max_seconds"`
	UnauthorizedPause float64 `json:"unauthorized_pause_seconds"`
	Shutdown          float64 `json:"shutdown_seconds"`
}

func seconds(number float64) time.Duration { return time.Duration(number * float64(time.Second)) }

func options() turnpike.Options {
	var given settings
	if err := json.Unmarshal([]byte(os.Getenv("TURNPIKE_OPTIONS")), &given); err != nil {
		log.Fatal(err)
	}
	return turnpike.Options{
		URL: os.Getenv("TURNPIKE_URL"), Key: os.Getenv("TURNPIKE_KEY"), Source: os.Getenv("TURNPIKE_SOURCE"),
		Subject: func(r *http.Request) string { return r.Header.Get("x-subject") },
		Usage: func(call turnpike.Call) (turnpike.Usage, bool) {
			return turnpike.Usage{Quantity: 1}, call.Template != "/free"
		},
		SpoolBytesMax: given.SpoolBytesMax, Durability: given.Durability, WhenFull: given.WhenFull,
		Wait: seconds(given.Wait), MemoryEventsMax: given.MemoryEventsMax, Flush: seconds(given.Flush), Timeout: seconds(given.Timeout),
		Backoff: seconds(given.Backoff), BackoffMax: seconds(given.BackoffMax),
		UnauthorizedPause: seconds(given.UnauthorizedPause), Shutdown: seconds(given.Shutdown),
		OnRejected: func(event []byte, reason, _ string) {
			var one struct{ Subject string }
			_ = json.Unmarshal(event, &one)
			mutex.Lock()
			defer mutex.Unlock()
			told = append(told, [2]string{one.Subject, reason})
		},
	}
}

func pieces(w http.ResponseWriter) {
	for range 10 {
		_, _ = w.Write([]byte(strings.Repeat("x", 5000)))
		w.(http.Flusher).Flush()
	}
}

func routes(counted *turnpike.Middleware) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_stats", func(w http.ResponseWriter, _ *http.Request) {
		stats := counted.Stats()
		mutex.Lock()
		defer mutex.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{
			"recorded": stats.Recorded, "spooled": stats.Spooled, "dropped": stats.Dropped, "in_memory": stats.InMemory,
			"unattributed": stats.Unattributed, "errors": stats.Errors, "accepted": stats.Accepted, "rejected": stats.Rejected,
			"retries": stats.Retries, "spool_bytes": stats.SpoolBytes, "state": stats.State, "told": told,
		})
	})
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	mux.HandleFunc("GET /orders/{id}", answer(http.StatusOK, ok))
	mux.HandleFunc("DELETE /orders/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /orders", answer(http.StatusCreated, ok))
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, _ *http.Request) { pieces(w) })
	mux.HandleFunc("GET /parts", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "50000")
		pieces(w)
	})
	mux.HandleFunc("GET /fail", answer(http.StatusInternalServerError, "as the test wants"))
	mux.HandleFunc("GET /free", answer(http.StatusOK, ok))
	mux.HandleFunc("POST /tokens/{count}", func(w http.ResponseWriter, r *http.Request) {
		tokens, _ := strconv.ParseInt(r.PathValue("count"), 10, 64)
		turnpike.SetUsage(r.Context(), turnpike.Usage{Quantity: tokens, Meter: "tokens", Properties: map[string]int64{"tokens": tokens}})
		_, _ = w.Write([]byte(ok))
	})
	if os.Getenv("TURNPIKE_OFF") != "" { // for overhead.py
		return mux
	}
	return counted.Handler(mux)
}

func main() {
	counted, err := turnpike.New(options())
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: routes(counted), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	fmt.Printf("listening %d\n", listener.Addr().(*net.TCPAddr).Port)
	stopped, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	<-stopped.Done()
	ended, cancelShutdown := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancelShutdown()
	_ = server.Shutdown(ended)
	if err := counted.Close(); err != nil {
		log.Print(err)
	}
}

// Command example is a small API whose calls are billed: keys name subscriptions, and the middleware counts what was answered.
//
//	TURNPIKE_URL=https://usage.example.com TURNPIKE_KEY=tps_... TURNPIKE_SOURCE=/gateways/one EXAMPLE_KEYS=keys.json go run ./example
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	turnpike "turnpike.example/sdks/go"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	text, err := os.ReadFile(os.Getenv("EXAMPLE_KEYS"))
	if err != nil {
		return err
	}
	var keys map[string]string // SHA-256 of each consumer's key -> subscription id
	if err := json.Unmarshal(text, &keys); err != nil {
		return err
	}
	seconds, _ := strconv.ParseFloat(os.Getenv("CLOCK_OFFSET_SECONDS"), 64) // only against the sandbox, whose clock runs ahead
	ahead := time.Duration(seconds * float64(time.Second))
	subscription := func(r *http.Request) string {
		hash := sha256.Sum256([]byte(r.Header.Get("X-Api-Key")))
		return keys[hex.EncodeToString(hash[:])]
	}
	counted, err := turnpike.New(turnpike.Options{
		URL:     os.Getenv("TURNPIKE_URL"),
		Key:     os.Getenv("TURNPIKE_KEY"),
		Source:  os.Getenv("TURNPIKE_SOURCE"),
		Subject: subscription,
		Clock:   func() time.Time { return time.Now().Add(ahead) },
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`[{"id":1,"total":12}]`)) })
	mux.HandleFunc("GET /orders/{id}", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"id":1,"total":12}`)) })
	authenticated := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subscription(r) == "" {
			http.Error(w, `{"error":"send a valid key in X-Api-Key"}`, http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
	return serve(counted, authenticated)
}

func serve(counted *turnpike.Middleware, handler http.Handler) error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: counted.Handler(handler), ReadHeaderTimeout: 10 * time.Second}
	problems := make(chan error, 1)
	go func() { problems <- server.Serve(listener) }()
	fmt.Printf("listening %d\n", listener.Addr().(*net.TCPAddr).Port)
	stopped, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	select {
	case err := <-problems:
		return errors.Join(err, counted.Close())
	case <-stopped.Done():
	}
	ended, cancelShutdown := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancelShutdown()
	return errors.Join(server.Shutdown(ended), counted.Close()) // in this order: first the last answers, then what is left to send
}

package turnpike

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// spy is the server's side: it notes how many events were durable when a part of the answer left.
type spy struct {
	*httptest.ResponseRecorder
	look    func() int
	durable []int
}

func (s *spy) WriteHeader(status int) {
	s.durable = append(s.durable, s.look())
	s.ResponseRecorder.WriteHeader(status)
}

func (s *spy) Write(part []byte) (int, error) {
	s.durable = append(s.durable, s.look())
	return s.ResponseRecorder.Write(part)
}

func TestTheEventIsDurableBeforeWhatCompletesAnAnswer(t *testing.T) {
	write := func(parts ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for _, part := range parts {
				_, _ = io.WriteString(w, part)
			}
		}
	}
	head := func(status int, length string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", length)
			w.WriteHeader(status)
		}
	}
	stated := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "6")
		write("abc", "def")(w, r)
	}
	for name, one := range map[string]struct {
		method  string
		handler http.HandlerFunc
		durable []int
		bytes   float64
	}{
		"without a length it ends after the handler": {"GET", write("abc", "def"), []int{0, 0, 0}, 6},
		"a stated length":             {"GET", stated, []int{0, 0, 1}, 6},
		"HEAD":                        {"HEAD", head(200, "900"), []int{1}, 0},
		"no content":                  {"GET", head(204, ""), []int{1}, 0},
		"not modified":                {"GET", head(304, ""), []int{1}, 0},
		"an empty body":               {"GET", head(200, "0"), []int{1}, 0},
		"a handler that says nothing": {"GET", write(), nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := make_(t, awayOptions(t))
			seen := &spy{ResponseRecorder: httptest.NewRecorder(), look: func() int { return len(spooled(t, m.options.SpoolFolder)) }}
			m.Handler(one.handler).ServeHTTP(seen, httptest.NewRequest(one.method, "/", nil))
			if !reflect.DeepEqual(seen.durable, one.durable) {
				t.Errorf("%v instead of %v", seen.durable, one.durable)
			}
			events := spooled(t, m.options.SpoolFolder)
			if len(events) != 1 || events[0].Data["responseBytes"] != one.bytes {
				t.Errorf("%+v", events)
			}
		})
	}
}

func TestWhatFailsIs500AndPanicsPass(t *testing.T) {
	for _, value := range []any{http.ErrAbortHandler, "broken"} {
		m := make_(t, awayOptions(t))
		func() {
			defer func() {
				if recover() != value {
					t.Error("the panic was swallowed")
				}
			}()
			handler := func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "some")
				panic(value)
			}
			m.Handler(http.HandlerFunc(handler)).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}()
		if events := spooled(t, m.options.SpoolFolder); len(events) != 1 || events[0].Data["status"] != 500.0 {
			t.Errorf("%+v", events)
		}
	}
}

func TestTemplatesNeverHoldARawPath(t *testing.T) {
	m := make_(t, awayOptions(t))
	mux, inner := http.NewServeMux(), http.NewServeMux()
	quiet := func(http.ResponseWriter, *http.Request) {}
	inner.HandleFunc("/deep/{x}", quiet)
	mux.HandleFunc("GET /orders/{id}", quiet)
	mux.HandleFunc("GET /files/{path...}", quiet)
	mux.HandleFunc("GET /{$}", quiet)
	mux.Handle("/tenants/{tenant}/", http.StripPrefix("/tenants/jane", inner))
	mux.HandleFunc("/own", func(_ http.ResponseWriter, r *http.Request) { SetTemplate(r.Context(), "/mine/{id}") })
	server := serve(t, m, mux)
	for _, path := range []string{"/orders/4711?token=secret", "/files/jane/b", "/", "/tenants/jane/deep/1", "/own", "/jane"} {
		answer, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
	var templates []any
	for _, one := range spooled(t, m.options.SpoolFolder) {
		templates = append(templates, one.Data["template"])
	}
	if wanted := []any{"/orders/{id}", "/files/{path}", "/", "/tenants/{tenant}/", "/mine/{id}", nil}; !reflect.DeepEqual(templates, wanted) {
		t.Errorf("%v instead of %v", templates, wanted)
	}
}

func TestAHandlerSaysWhoseCallItIsAndHowItCounts(t *testing.T) {
	options := awayOptions(t)
	options.Subject = func(*http.Request) string { return "" }
	m := make_(t, options)
	handler := func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/named" {
			SetSubject(r.Context(), "sub-2")
			SetUsage(r.Context(), Usage{Quantity: 40, Meter: "tokens", Properties: map[string]int64{"tokens": 40}})
		}
	}
	for _, path := range []string{"/named", "/nameless"} {
		m.Handler(http.HandlerFunc(handler)).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
	}
	events := spooled(t, options.SpoolFolder)
	if len(events) != 1 || events[0].Subject != "sub-2" || events[0].Data["quantity"] != 40.0 || events[0].Data["meter"] != "tokens" {
		t.Errorf("%+v", events)
	}
	if m.Stats().Unattributed != 1 {
		t.Errorf("%+v", m.Stats())
	}
}

func TestErrorsOfTheAppsOwnFunctionsNeverReachTheAnswer(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"subject":  func(o *Options) { o.Subject = func(*http.Request) string { panic("no such tenant") } },
		"usage":    func(o *Options) { o.Usage = func(Call) (Usage, bool) { panic("no such meter") } },
		"template": func(o *Options) { o.Template = func(*http.Request) string { panic("no such route") } },
		"clock":    func(o *Options) { o.Clock = func() time.Time { panic("no time") } },
		"quantity": func(o *Options) { o.Usage = func(Call) (Usage, bool) { return Usage{Quantity: -1}, true } },
	} {
		t.Run(name, func(t *testing.T) {
			options := awayOptions(t)
			told := make(chan string, 100)
			options.OnError = func(kind, _ string) {
				told <- kind
				panic("a hook that fails")
			}
			change(&options)
			m := make_(t, options)
			recorder := httptest.NewRecorder()
			ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
			m.Handler(http.HandlerFunc(ok)).ServeHTTP(recorder, httptest.NewRequest("GET", "/", nil))
			if recorder.Body.String() != "ok" || <-told != "record" || len(spooled(t, options.SpoolFolder)) != 0 {
				t.Errorf("%q", recorder.Body.String())
			}
		})
	}
}

func TestFlushHijackAndDeadlinesReachTheServer(t *testing.T) {
	m := make_(t, awayOptions(t))
	problems := make(chan error, 1)
	server := serve(t, m, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/flush" {
			_, _ = io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			problems <- http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute))
			return
		}
		connection, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
			err = connection.Close()
		}
		problems <- err
	}))
	for _, path := range []string{"/flush", "/hijack"} {
		answer, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err := <-problems; err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if events := spooled(t, m.options.SpoolFolder); len(events) != 1 {
		t.Errorf("a connection that was taken over is not a call: %+v", events)
	}
}

func TestARequestBodyWithoutAStatedLengthIsCountedAsItIsRead(t *testing.T) {
	m := make_(t, awayOptions(t))
	server := serve(t, m, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	answer, err := http.Post(server.URL, "text/plain", io.MultiReader(strings.NewReader("abc"), strings.NewReader("de")))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	events := spooled(t, m.options.SpoolFolder)
	if string(text) != "abcde" || len(events) != 1 || events[0].Data["requestBytes"] != 5.0 {
		t.Errorf("%s %+v", text, events)
	}
}

func TestAWrongOptionIsNamedAtTheStart(t *testing.T) {
	file := filepath.Join(shortFolder(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"URL":            func(o *Options) { o.URL = "usage.example.com" },
		"Key":            func(o *Options) { o.Key = " " },
		"Source":         func(o *Options) { o.Source = "a b" },
		"Subject":        func(o *Options) { o.Subject = nil },
		"SpoolBytesMax":  func(o *Options) { o.SpoolBytesMax = 10 },
		"BatchEventsMax": func(o *Options) { o.BatchEventsMax = 1001 },
		"Durability":     func(o *Options) { o.Durability = "none" },
		"WhenFull":       func(o *Options) { o.WhenFull = "wait" },
		"SpoolFolder":    func(o *Options) { o.SpoolFolder = filepath.Join(file, "spool") },
		"too long":       func(o *Options) { o.SpoolFolder = filepath.Join(o.SpoolFolder, strings.Repeat("x", 120)) },
	} {
		options := awayOptions(t)
		change(&options)
		if _, err := New(options); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAnswerWaitsForTheDiskUpToTheLimitAndNoLonger(t *testing.T) {
	options := awayOptions(t)
	options.Wait, options.MemoryEventsMax = 50*time.Millisecond, 2
	complete, err := options.complete()
	if err != nil {
		t.Fatal(err)
	}
	release, told := make(chan error), newReports(complete)
	w := newWriter(func([][]byte) error { return <-release }, complete, told)
	started := time.Now()
	for range 3 {
		w.put([]byte("{}"))
	}
	if took := time.Since(started); took < 90*time.Millisecond || told.copy().InMemory != 2 || told.copy().Dropped != 1 {
		t.Errorf("%s %+v", took, told.copy())
	}
	release <- errors.New("the disk is slow")
	close(release) // from now on it answers
	until(t, func() bool { return told.copy().Spooled == 2 })
	w.stop(time.Second)
}

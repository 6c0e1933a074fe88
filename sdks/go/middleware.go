// Package turnpike counts the calls of a net/http server and sends them to Turnpike's ingest door, through a spool on disk.
package turnpike

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const statusFailed = http.StatusInternalServerError

// Middleware counts every request of the handlers it wraps.
type Middleware struct {
	options Options
	reports *reports
	spool   *spool
	writer  *writer
	sender  *sender
}

// New checks the options and starts sending what an earlier process left. The error names the option and the remedy.
func New(given Options) (*Middleware, error) {
	options, err := given.complete()
	if err != nil {
		return nil, err
	}
	m := &Middleware{options: options, reports: newReports(options)}
	m.spool = newSpool(options.SpoolFolder, options.SpoolBytesMax, options.Durability == "disk")
	m.writer = newWriter(m.spool.append, options, m.reports)
	m.sender = newSender(m.spool, options, m.reports)
	go m.sender.run()
	return m, nil
}

// Stats returns a copy of this process's counters.
func (m *Middleware) Stats() Stats { return m.reports.copy() }

// Close stores what is in memory and sends what can be sent within Options.Shutdown; the rest stays in the spool. Call it after
// http.Server.Shutdown.
func (m *Middleware) Close() error {
	end := time.Now().Add(m.options.Shutdown)
	if lost := m.writer.stop(m.options.Shutdown); lost > 0 {
		m.reports.dropped(lost)
	}
	m.sender.stop(max(time.Until(end), 0))
	return m.spool.close()
}

// Handler wraps a handler.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		said := &note{}
		x := &exchange{middleware: m, note: said, started: time.Now(), stated: -1, ResponseWriter: w}
		x.request = r.WithContext(context.WithValue(r.Context(), noteKey{}, said))
		if r.ContentLength < 0 && r.Body != nil {
			x.request.Body = &countingBody{r.Body, &x.requestBytes}
		}
		finished := false
		defer func() {
			if !finished {
				x.record(statusFailed) // a panic passes by
			}
		}()
		next.ServeHTTP(x, x.request)
		finished = true
		if x.status == 0 {
			x.status = http.StatusOK
		}
		x.record(x.status)
	})
}

// exchange is one request and its answer.
type exchange struct {
	http.ResponseWriter
	middleware    *Middleware
	note          *note
	request       *http.Request
	started       time.Time
	requestBytes  int64
	responseBytes int64
	stated        int64 // the Content-Length, or -1
	status        int
	recorded      bool
}

// WriteHeader sees the status. An answer without a body is complete with its head.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		x.status = status
		if length, err := strconv.ParseInt(x.Header().Get("Content-Length"), 10, 64); err == nil {
			x.stated = length
		}
		if x.request.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified || x.stated == 0 {
			x.record(status)
		}
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write holds back the part that completes a stated length until the event is durable. Without one the answer ends after the handler.
func (x *exchange) Write(part []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	x.responseBytes += int64(len(part))
	if x.stated >= 0 && x.responseBytes >= x.stated {
		x.record(x.status)
	}
	return x.ResponseWriter.Write(part)
}

// Flush implements http.Flusher.
func (x *exchange) Flush() { _ = x.FlushError() }

// FlushError is what http.ResponseController calls.
func (x *exchange) FlushError() error {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker. What becomes of the connection is not counted.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	connection, buffer, err := http.NewResponseController(x.ResponseWriter).Hijack()
	x.recorded = x.recorded || err == nil
	return connection, buffer, err
}

// Unwrap lets http.ResponseController reach deadlines.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// record makes the event durable, once. Nothing in here may harm the answer.
func (x *exchange) record(status int) {
	if x.recorded {
		return
	}
	x.recorded = true
	reports := x.middleware.reports
	defer func() {
		if raised := recover(); raised != nil {
			reports.error("record", fmt.Sprintf("%T in a function of the app", raised))
		}
	}()
	body, err := x.event(status)
	if err != nil {
		reports.error("record", err.Error())
	} else if body != nil {
		x.middleware.writer.put(body)
	}
}

// event returns the event of the call, or nil when it does not count.
func (x *exchange) event(status int) ([]byte, error) {
	x.note.mutex.Lock()
	said := note{subject: x.note.subject, template: x.note.template, usage: x.note.usage}
	x.note.mutex.Unlock()
	options := x.middleware.options
	call := x.call(status, said.template)
	usage, counts := Usage{Quantity: 1}, true
	if said.usage != nil {
		usage = *said.usage
	} else if options.Usage != nil {
		usage, counts = options.Usage(call)
	}
	if !counts {
		return nil, nil
	}
	subject := said.subject
	if subject == "" {
		subject = options.Subject(x.request)
	}
	if subject == "" {
		x.middleware.reports.count(func(stats *Stats) { stats.Unattributed++ })
		return nil, nil
	}
	return build(call, usage, options.Source, subject, newID(), options.Clock())
}

func (x *exchange) call(status int, template string) Call {
	options := x.middleware.options
	if template == "" && options.Template != nil {
		template = options.Template(x.request)
	} else if template == "" {
		template = templateOf(x.request.Pattern)
	}
	call := Call{
		Request: x.request, Method: x.request.Method, Template: template, Status: status, Duration: time.Since(x.started),
		RequestBytes: x.requestBytes, ResponseBytes: x.responseBytes,
	}
	if x.request.ContentLength >= 0 {
		call.RequestBytes = x.request.ContentLength
	}
	if call.Method == http.MethodHead {
		call.ResponseBytes = 0
	}
	return call
}

// templateOf returns the path of a pattern of http.ServeMux, "GET example.com/orders/{id...}": no method, no host, plain names.
func templateOf(pattern string) string {
	_, path, found := strings.Cut(pattern, "/")
	if !found {
		return ""
	}
	return strings.NewReplacer("...}", "}", "{$}", "").Replace("/" + path)
}

// countingBody counts a request body whose length was not stated.
type countingBody struct {
	io.ReadCloser
	count *int64
}

func (b *countingBody) Read(part []byte) (int, error) {
	count, err := b.ReadCloser.Read(part)
	*b.count += int64(count)
	return count, err
}

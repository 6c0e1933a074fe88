package turnpike

import (
	"encoding/json"
	"log/slog"
	"sync"
	"time"
)

const sameProblem = time.Minute

// Stats are the counters of one process. Recorded = Spooled + Dropped + InMemory.
type Stats struct {
	Recorded, Spooled, Dropped, InMemory int64
	Unattributed, Errors                 int64
	Accepted, Rejected, Retries          int64
	SpoolBytes                           int64
	State                                string // idle, sending, retrying, unauthorized, clock_ahead
}

// reports counts what goes wrong, logs it when it changes, and tells the app's hooks.
type reports struct {
	options Options
	mutex   sync.Mutex
	stats   Stats
	told    map[string]problem
}

type problem struct {
	text string
	at   time.Time
}

func newReports(options Options) *reports {
	return &reports{options: options, told: map[string]problem{}, stats: Stats{State: "idle"}}
}

func (r *reports) count(change func(*Stats)) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	change(&r.stats)
}

func (r *reports) copy() Stats {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.stats
}

// error tells a problem. It never holds a payload or a key.
func (r *reports) error(kind, text string) {
	r.count(func(stats *Stats) { stats.Errors++ })
	r.log(kind, text)
	if r.options.OnError != nil {
		quietly(func() { r.options.OnError(kind, text) })
	}
}

func (r *reports) dropped(events int) {
	r.count(func(stats *Stats) { stats.Dropped += int64(events) })
	r.log("dropped", "usage events were dropped: the spool is full")
	if r.options.OnDropped != nil {
		quietly(func() { r.options.OnDropped(events) })
	}
}

func (r *reports) rejected(one aside) {
	r.count(func(stats *Stats) { stats.Rejected++ })
	r.log("rejected: "+one.reason, one.message+"; such events are kept aside in the spool")
	if r.options.OnRejected != nil {
		quietly(func() { r.options.OnRejected(one.event, one.reason, one.message) })
	}
}

// log says when something changes, and the same at most once a minute.
func (r *reports) log(kind, text string) {
	r.mutex.Lock()
	last, now := r.told[kind], time.Now()
	same := last.text == text && now.Sub(last.at) < sameProblem
	if !same {
		r.told[kind] = problem{text, now}
	}
	r.mutex.Unlock()
	if !same {
		slog.Warn("turnpike", "kind", kind, "problem", text)
	}
}

// quietly calls a hook; its panics are its own.
func quietly(hook func()) {
	defer func() { _ = recover() }()
	hook()
}

// jsonOr returns an event as it is, or as a JSON text where it is damaged.
func jsonOr(event []byte) json.RawMessage {
	if json.Valid(event) {
		return event
	}
	text, _ := json.Marshal(string(event)) // a string always can be
	return text
}

package turnpike

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	groupMax   = 1000
	retryPause = 100 * time.Millisecond
)

// writer commits in groups: what has gathered while the last group went to the disk is stored together, then its requests go on.
type writer struct {
	store   func([][]byte) error
	options Options
	reports *reports
	mutex   sync.Mutex
	changed *sync.Cond
	waiting []entry
	limit   int
	stopAt  time.Time
	done    chan struct{}
}

type entry struct {
	body   []byte
	stored chan struct{}
}

func newWriter(store func([][]byte) error, options Options, reports *reports) *writer {
	w := &writer{store: store, options: options, reports: reports, limit: groupMax, done: make(chan struct{})}
	w.changed = sync.NewCond(&w.mutex)
	go w.run()
	return w
}

// put returns once the event is durable, or dropped, or the limit of waiting has passed.
func (w *writer) put(body []byte) {
	one := entry{body, make(chan struct{})}
	w.mutex.Lock()
	taken := len(w.waiting) < w.options.MemoryEventsMax && w.stopAt.IsZero()
	if taken {
		w.waiting = append(w.waiting, one)
	}
	w.mutex.Unlock()
	w.reports.count(func(stats *Stats) {
		stats.Recorded++
		if taken {
			stats.InMemory++
		}
	})
	if !taken {
		w.reports.dropped(1)
		return
	}
	w.changed.Signal()
	timer := time.NewTimer(w.options.Wait)
	defer timer.Stop()
	select {
	case <-one.stored:
	case <-timer.C:
		w.reports.error("late", fmt.Sprintf("an event is not on disk after %s; it waits in memory", w.options.Wait))
	}
}

// stop stores what is left, within a limit of time; returns how many events could not be stored.
func (w *writer) stop(limit time.Duration) int {
	w.mutex.Lock()
	w.stopAt = time.Now().Add(limit)
	w.mutex.Unlock()
	w.changed.Broadcast()
	select {
	case <-w.done:
	case <-time.After(limit + time.Second):
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return len(w.waiting)
}

func (w *writer) run() {
	defer close(w.done)
	for group := w.nextGroup(); len(group) > 0; group = w.nextGroup() {
		bodies := make([][]byte, len(group))
		for place, one := range group {
			bodies[place] = one.body
		}
		err := w.store(bodies)
		switch {
		case err == nil:
			w.limit = min(w.limit*2, groupMax)
			w.reports.count(func(stats *Stats) { stats.Spooled += int64(len(group)) })
			w.finish(group)
		case errors.Is(err, errSpoolFull):
			w.full(group)
		default:
			w.reports.error("spool", err.Error())
			time.Sleep(retryPause)
		}
	}
}

// nextGroup waits for events; an empty group means stop. Events stay in the queue until they are stored.
func (w *writer) nextGroup() []entry {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for len(w.waiting) == 0 && w.stopAt.IsZero() {
		w.changed.Wait()
	}
	if !w.stopAt.IsZero() && time.Now().After(w.stopAt) {
		return nil
	}
	return append([]entry(nil), w.waiting[:min(len(w.waiting), w.limit)]...)
}

// full: a part of a group may still fit; when not even one event does, wait for room or drop it.
func (w *writer) full(group []entry) {
	if len(group) > 1 {
		w.limit = (len(group) + 1) / 2
		return
	}
	w.reports.error("spool_full", errSpoolFull.Error())
	if w.options.WhenFull == "drop" {
		w.reports.dropped(len(group))
		w.finish(group)
		return
	}
	time.Sleep(retryPause)
}

func (w *writer) finish(group []entry) {
	w.mutex.Lock()
	w.waiting = append(w.waiting[:0], w.waiting[len(group):]...)
	w.mutex.Unlock()
	w.reports.count(func(stats *Stats) { stats.InMemory -= int64(len(group)) })
	for _, one := range group {
		close(one.stored)
	}
}

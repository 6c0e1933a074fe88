package turnpike

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	batchType      = "application/cloudevents-batch+json"
	gzipFrom       = 1024
	answerBytesMax = 4 << 20
	aheadProblem   = "the door says that this machine's clock is ahead: such events wait, the others are sent"
	adoptEvery     = 2 * time.Second
	expiredReason  = "expired_in_spool"
)

var states = map[action]string{actionRetry: "retrying", actionUnauthorized: "unauthorized"}

// sender sends the oldest events first, and removes them only once the door has answered for each of them.
type sender struct {
	spool     *spool
	options   Options
	reports   *reports
	client    http.Client
	attempt   int
	ahead     [][]byte // of the batch that is being sent, what is ahead of the door's clock
	aheadFor  time.Duration
	adoptedAt time.Time
	stopping  chan time.Time
	stopAt    time.Time
	done      chan struct{}
}

func newSender(spool *spool, options Options, reports *reports) *sender {
	s := &sender{spool: spool, options: options, reports: reports, stopping: make(chan time.Time, 1), done: make(chan struct{})}
	if options.Client != nil {
		s.client = *options.Client
	}
	s.client.Timeout = options.Timeout
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return s
}

// stop sends what is left, within a limit of time.
func (s *sender) stop(limit time.Duration) {
	s.stopping <- time.Now().Add(limit)
	select {
	case <-s.done:
	case <-time.After(limit):
	}
}

func (s *sender) run() {
	defer close(s.done)
	for s.stopAt.IsZero() || time.Now().Before(s.stopAt) {
		stopping := !s.stopAt.IsZero()
		pause, empty, err := s.calmTurn()
		if err != nil {
			s.reports.error("sender", err.Error()) // whatever happens here, the app goes on and the events stay
			pause = s.backoff(0)
		}
		if empty && stopping {
			return
		}
		s.wait(pause)
	}
}

// calmTurn turns a panic, as of the app's own KeyFunc, into an error: it must not end the app.
func (s *sender) calmTurn() (pause time.Duration, empty bool, err error) {
	defer func() {
		if found := recover(); found != nil {
			err = fmt.Errorf("panic: %T", found)
		}
	}()
	return s.turn()
}

// turn sends one batch; returns how long to wait, and whether there was nothing.
func (s *sender) turn() (time.Duration, bool, error) {
	if err := s.spool.open(); err != nil {
		return 0, false, err
	}
	if time.Since(s.adoptedAt) > adoptEvery {
		s.adoptedAt = time.Now()
		if err := s.spool.adopt(); err != nil {
			return 0, false, err
		}
	}
	found, err := s.spool.read(s.options.BatchEventsMax, s.options.BatchBytesMax)
	if err != nil {
		return 0, false, err
	}
	s.measure()
	if len(found.events)+len(found.damaged) == 0 {
		s.attempt = 0
		if s.spool.holds() {
			s.state("clock_ahead")
		} else {
			s.state("idle")
		}
		return s.options.Flush, true, nil
	}
	events, err := s.sort(found)
	if err != nil {
		return 0, false, err
	}
	s.ahead, s.aheadFor = nil, aheadPauseMax
	pause, err := s.send(events)
	if err != nil || s.attempt > 0 {
		return pause, false, err
	}
	if err := s.hold(); err != nil {
		return 0, false, err
	}
	found.take()
	if found.more {
		return 0, false, nil
	}
	return s.options.Flush, false, nil
}

// sort sets aside what can never be sent, and returns the rest.
func (s *sender) sort(found batch) ([][]byte, error) {
	var refused []aside
	for _, raw := range found.damaged {
		refused = append(refused, aside{raw, "damaged", "the line in the spool is damaged"})
	}
	oldest := s.options.Clock().Add(-s.options.SpoolAgeMax)
	var young [][]byte
	for _, body := range found.events {
		if at := timeOf(body); !at.IsZero() && at.Before(oldest) {
			refused = append(refused, aside{body, expiredReason, "it waited in the spool for too long"})
			continue
		}
		young = append(young, body)
	}
	return young, s.setAside(refused)
}

func (s *sender) send(events [][]byte) (time.Duration, error) {
	if len(events) == 0 {
		return 0, nil
	}
	s.state("sending")
	decided := s.post(events)
	if decided.action == actionDone {
		return 0, s.finish(events, decided)
	}
	s.reports.error(string(decided.action), decided.problem)
	if decided.action == actionSplit {
		middle := len(events) / 2
		pause, err := s.send(events[:middle])
		if err != nil || s.attempt > 0 {
			return pause, err
		}
		return s.send(events[middle:])
	}
	s.reports.count(func(stats *Stats) { stats.Retries++ })
	s.state(states[decided.action])
	if decided.action == actionUnauthorized {
		return s.backoff(s.options.UnauthorizedPause), nil
	}
	return s.backoff(decided.wait), nil
}

// finish counts what was answered. What is ahead of the door's clock waits, so that it stands in nobody's way; too far ahead is refused.
func (s *sender) finish(events [][]byte, decided verdict) error {
	s.attempt = 0
	var refused []aside
	for _, one := range decided.refusals {
		refused = append(refused, aside{events[one.place], one.reason, one.message})
	}
	waiting := 0
	for _, one := range decided.ahead {
		body := events[one.place]
		pause, waits := aheadPause(timeOf(body), decided.answeredAt, s.options.SpoolAgeMax)
		if !waits {
			refused = append(refused, aside{body, one.reason, one.message})
			continue
		}
		s.ahead, s.aheadFor = append(s.ahead, body), min(s.aheadFor, pause)
		waiting++
	}
	if err := s.setAside(refused); err != nil {
		return err
	}
	s.reports.count(func(stats *Stats) { stats.Accepted += int64(len(events) - len(refused) - waiting) })
	return nil
}

// hold has what is ahead of the door's clock wait in a segment of its own.
func (s *sender) hold() error {
	if len(s.ahead) == 0 {
		return nil
	}
	s.reports.count(func(stats *Stats) { stats.Retries++ })
	s.reports.error("ahead", aheadProblem)
	err := s.spool.hold(s.ahead, time.Now().Add(s.aheadFor))
	if !isFull(err) {
		return err
	}
	var refused []aside
	for _, body := range s.ahead {
		refused = append(refused, aside{body, aheadReason, "it is ahead of the door's clock, and the disk is full"})
	}
	return s.setAside(refused)
}

// timeOf returns an event's time; the zero time where it has none.
func timeOf(body []byte) time.Time {
	var one struct{ Time time.Time }
	_ = json.Unmarshal(body, &one)
	return one.Time
}

func (s *sender) post(events [][]byte) verdict {
	body := append(append([]byte("["), bytes.Join(events, []byte(","))...), ']')
	packed := len(body) >= gzipFrom
	if packed {
		body = pack(body)
	}
	request, err := http.NewRequest(http.MethodPost, s.options.address(), bytes.NewReader(body))
	if err != nil {
		return verdict{action: actionRetry, problem: err.Error()}
	}
	request.Header.Set("Authorization", "Bearer "+s.options.KeyFunc())
	request.Header.Set("Content-Type", batchType)
	if packed {
		request.Header.Set("Content-Encoding", "gzip")
	}
	answered, err := s.client.Do(request)
	if err != nil {
		return verdict{action: actionRetry, problem: fmt.Sprintf("no answer: %T", err)}
	}
	defer func() { _ = answered.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answered.Body, answerBytesMax))
	if err != nil {
		return verdict{action: actionRetry, problem: "the answer broke off"}
	}
	return judge(answered.StatusCode, answered.Header, text, len(events), time.Now())
}

func pack(body []byte) []byte {
	var packed bytes.Buffer
	zipper := gzip.NewWriter(&packed)
	_, _ = zipper.Write(body) // into memory: cannot fail
	_ = zipper.Close()
	return packed.Bytes()
}

func (s *sender) setAside(refused []aside) error {
	if len(refused) == 0 {
		return nil
	}
	if err := keepAside(s.spool.folder, refused, s.options.RejectedBytesMax, time.Now()); isFull(err) {
		s.reports.error("rejected", "the disk is full: refused events are told, but not kept") // sending is what makes room
	} else if err != nil {
		return err
	}
	for _, one := range refused {
		s.reports.rejected(one)
	}
	return nil
}

func (s *sender) backoff(atLeast time.Duration) time.Duration {
	pause := backoff(s.attempt, s.options.Backoff, s.options.BackoffMax, rand.Float64())
	s.attempt++
	return max(pause, atLeast)
}

// wait waits; when stopping only after failures, and not past the limit.
func (s *sender) wait(pause time.Duration) {
	if !s.stopAt.IsZero() {
		if s.attempt > 0 {
			time.Sleep(min(pause, time.Until(s.stopAt)))
		}
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case s.stopAt = <-s.stopping:
	}
}

func (s *sender) state(name string) { s.reports.count(func(stats *Stats) { stats.State = name }) }

func (s *sender) measure() {
	s.spool.mutex.Lock()
	size := s.spool.bytes
	s.spool.mutex.Unlock()
	s.reports.count(func(stats *Stats) { stats.SpoolBytes = size })
}

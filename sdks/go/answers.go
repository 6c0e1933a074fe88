package turnpike

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	retryAfterMax = 5 * time.Minute
	aheadReason   = "in_the_future"
	aheadSlack    = 5 * time.Minute // the door takes what is so far ahead
	aheadPauseMin = time.Minute
	aheadPauseMax = time.Hour
	refusedKey    = "the key is refused: give a valid one (turnpike senders add); all is kept until then"
)

type action string

const (
	actionDone         action = "done"         // remove the batch; its refusals are kept aside, those ahead of the door's clock wait
	actionSplit        action = "split"        // something in it is poison: send halves
	actionRetry        action = "retry"        // later, as it is
	actionUnauthorized action = "unauthorized" // the key is refused
)

// refusal is one event the door will never take; place is its place in the batch.
type refusal struct {
	place           int
	reason, message string
}

type verdict struct {
	action     action
	refusals   []refusal
	ahead      []refusal
	answeredAt time.Time // the door's clock
	wait       time.Duration
	problem    string
}

type answer struct {
	Results *[]struct {
		Status, Reason, Message string
	}
	Error struct{ Code, Message string }
}

// judge returns what an HTTP answer means for a batch of so many events.
func judge(status int, headers http.Header, body []byte, events int, now time.Time) verdict {
	var found answer
	if json.Unmarshal(body, &found) != nil {
		found = answer{}
	}
	if (status == 202 || status == 403 || status == 422) && found.Results != nil {
		decided := byEvent(found, events)
		decided.answeredAt = doorTime(headers.Get("Date"), now)
		return decided
	}
	code := found.Error.Code
	if status == 401 || status == 403 {
		return verdict{action: actionUnauthorized, problem: fmt.Sprintf("HTTP %d: %s", status, refusedKey)}
	}
	cut := code == "disconnected" // 400 because the body did not arrive whole: nothing is wrong with it
	if (status == 400 || status == 413) && !cut && (code != "" || events > 1) {
		if events > 1 {
			return verdict{action: actionSplit, problem: fmt.Sprintf("HTTP %d: %s", status, code)}
		}
		return verdict{action: actionDone, refusals: []refusal{{0, code, found.Error.Message}}}
	}
	return verdict{action: actionRetry, wait: retryAfter(headers.Get("Retry-After"), now), problem: strings.TrimSuffix(fmt.Sprintf("HTTP %d: %s", status, code), ": ")}
}

func byEvent(found answer, events int) verdict {
	results := *found.Results
	if len(results) != events {
		return verdict{action: actionRetry, problem: "the answer does not fit the batch"}
	}
	decided := verdict{action: actionDone}
	for place, result := range results {
		switch {
		case result.Status == "rejected" && result.Reason == aheadReason:
			decided.ahead = append(decided.ahead, refusal{place, result.Reason, result.Message})
		case result.Status == "rejected":
			decided.refusals = append(decided.refusals, refusal{place, result.Reason, result.Message})
		case result.Status != "accepted":
			return verdict{action: actionRetry, problem: "the answer does not fit the batch"}
		}
	}
	return decided
}

// doorTime returns the door's clock as its header Date says, or this machine's where there is none.
func doorTime(date string, now time.Time) time.Time {
	if found, err := http.ParseTime(date); err == nil {
		return found
	}
	return now
}

// aheadPause returns how long an event ahead of the door's clock waits: 1 to 60 minutes; false: it is too far ahead to wait.
func aheadPause(at, answeredAt time.Time, longest time.Duration) (time.Duration, bool) {
	ahead := at.Sub(answeredAt)
	return min(max(ahead-aheadSlack, aheadPauseMin), aheadPauseMax), ahead <= longest
}

// retryAfter returns what a Retry-After header asks for (a number or a date), at most five minutes; 0 when it says nothing.
func retryAfter(value string, now time.Time) time.Duration {
	text := strings.TrimSpace(value)
	if text != "" && strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds > int64(retryAfterMax/time.Second) {
			return retryAfterMax
		}
		return time.Duration(seconds) * time.Second
	}
	until, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(until.Sub(now), 0), retryAfterMax)
}

// backoff returns the pause before the next try: doubled with each attempt (from 0), of which the upper half is random in [0, 1).
func backoff(attempt int, first, longest time.Duration, random float64) time.Duration {
	whole := math.Min(float64(first)*math.Pow(2, float64(min(attempt, 30))), float64(longest))
	return time.Duration(whole * (0.5 + 0.5*random))
}

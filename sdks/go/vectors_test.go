package turnpike

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

type vectors struct {
	Events []struct {
		Says      string
		Call      *callVector
		Usage     map[string]any
		Subject   *string
		SubjectOf int `json:"subject_of"`
		Data      map[string]any
		Error     bool
		NotIn     []string `json:"not_in"`
	}
	Times []struct {
		Milliseconds int64
		Text         string
	}
	Answers []struct {
		Says       string
		Status     int
		Events     int
		Body       json.RawMessage
		Text       *string
		RetryAfter string `json:"retry_after"`
		Date       string
		AnsweredAt time.Time `json:"answered_at"`
		Ahead      []int
		Action     action
		Refusals   [][]any
		Wait       float64 `json:"wait_seconds"`
		Problem    string
	}
	Now   time.Time
	Ahead []struct {
		Time    time.Time
		Seconds *float64
	}
	Backoff []struct {
		Attempt                         int
		First, Longest, Random, Seconds float64
	}
	Segments []struct {
		Says    string
		Text    string
		Events  []string
		Damaged int
	}
}

type callVector struct {
	Method        string
	Template      *string
	Status        int
	RequestBytes  int64 `json:"request_bytes"`
	ResponseBytes int64 `json:"response_bytes"`
	DurationMs    int64 `json:"duration_ms"`
}

func (c callVector) call() Call {
	template := ""
	if c.Template != nil {
		template = *c.Template
	}
	return Call{
		Method: c.Method, Template: template, Status: c.Status, RequestBytes: c.RequestBytes, ResponseBytes: c.ResponseBytes,
		Duration: time.Duration(c.DurationMs) * time.Millisecond,
	}
}

func readVectors(t *testing.T) vectors {
	t.Helper()
	text, err := os.ReadFile("../conformance/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var found vectors
	if err := json.Unmarshal(text, &found); err != nil {
		t.Fatal(err)
	}
	return found
}

// usageOf returns the usage of a vector; false where Go's types do not let it be said.
func usageOf(given map[string]any) (Usage, bool) {
	usage := Usage{Quantity: 1}
	if quantity, found := given["quantity"].(float64); found {
		usage.Quantity = int64(quantity)
		if float64(usage.Quantity) != quantity {
			return usage, false
		}
	}
	usage.Meter, _ = given["meter"].(string)
	if properties, found := given["properties"].(map[string]any); found {
		usage.Properties = map[string]int64{}
		for name, value := range properties {
			usage.Properties[name] = int64(value.(float64))
		}
	}
	return usage, true
}

func TestEvents(t *testing.T) {
	found := readVectors(t)
	for _, vector := range found.Events {
		t.Run(vector.Says, func(t *testing.T) {
			usage, sayable := usageOf(vector.Usage)
			if !sayable || len(vector.NotIn) > 0 {
				t.Skip("Go's types do not let this be said")
			}
			call := found.Events[0].Call.call()
			if vector.Call != nil {
				call = vector.Call.call()
			}
			subject := strings.Repeat("x", vector.SubjectOf)
			if vector.Subject != nil {
				subject = *vector.Subject
			}
			body, err := build(call, usage, "/s", subject, "1", found.Now)
			if vector.Error {
				var problem errUsage
				if !errors.As(err, &problem) {
					t.Fatalf("no error, but %s", body)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wanted := map[string]any{
				"specversion": "1.0", "id": "1", "source": "/s", "type": "turnpike.usage", "subject": subject,
				"time": "2027-01-10T12:30:00.000Z", "data": vector.Data,
			}
			var event map[string]any
			if err := json.Unmarshal(body, &event); err != nil || !reflect.DeepEqual(event, wanted) {
				t.Fatalf("%v\n%v instead of\n%v", err, event, wanted)
			}
		})
	}
}

func TestTimes(t *testing.T) {
	for _, vector := range readVectors(t).Times {
		if text := time.UnixMilli(vector.Milliseconds).UTC().Format(instantLayout); text != vector.Text {
			t.Errorf("%s instead of %s", text, vector.Text)
		}
	}
}

func TestAnswers(t *testing.T) {
	found := readVectors(t)
	for _, vector := range found.Answers {
		t.Run(vector.Says, func(t *testing.T) {
			body := []byte(vector.Body)
			if vector.Text != nil {
				body = []byte(*vector.Text)
			}
			decided := judge(vector.Status, http.Header{"Retry-After": {vector.RetryAfter}, "Date": {vector.Date}}, body, vector.Events, found.Now)
			if decided.action != vector.Action || decided.wait.Seconds() != vector.Wait || len(decided.refusals) != len(vector.Refusals) {
				t.Fatalf("%+v", decided)
			}
			if !vector.AnsweredAt.IsZero() && !decided.answeredAt.Equal(vector.AnsweredAt) {
				t.Errorf("answered at %s", decided.answeredAt)
			}
			var ahead []int
			for _, one := range decided.ahead {
				ahead = append(ahead, one.place)
			}
			if !reflect.DeepEqual(ahead, vector.Ahead) {
				t.Errorf("ahead: %v instead of %v", ahead, vector.Ahead)
			}
			if vector.Problem != "" && decided.problem != vector.Problem {
				t.Errorf("%s instead of %s", decided.problem, vector.Problem)
			}
			for place, one := range decided.refusals {
				wanted := vector.Refusals[place]
				if float64(one.place) != wanted[0] || one.reason != wanted[1] || one.message != wanted[2] {
					t.Errorf("%+v instead of %v", one, wanted)
				}
			}
		})
	}
}

func TestPausesOfWhatIsAhead(t *testing.T) {
	found := readVectors(t)
	for _, vector := range found.Ahead {
		pause, waits := aheadPause(vector.Time, found.Now, 34*day)
		if waits != (vector.Seconds != nil) || (waits && pause.Seconds() != *vector.Seconds) {
			t.Errorf("%s: %s, %v", vector.Time, pause, waits)
		}
	}
}

func TestPauses(t *testing.T) {
	for _, vector := range readVectors(t).Backoff {
		first, longest := time.Duration(vector.First*float64(time.Second)), time.Duration(vector.Longest*float64(time.Second))
		if pause := backoff(vector.Attempt, first, longest, vector.Random); pause.Seconds() != vector.Seconds {
			t.Errorf("attempt %d: %s instead of %g s", vector.Attempt, pause, vector.Seconds)
		}
	}
}

func TestSegments(t *testing.T) {
	for _, vector := range readVectors(t).Segments {
		t.Run(vector.Says, func(t *testing.T) {
			events, damaged := []string{}, 0
			for _, one := range decode([]byte(vector.Text)) {
				if one.event == nil {
					damaged++
				} else {
					events = append(events, string(one.event))
				}
			}
			if !reflect.DeepEqual(events, vector.Events) || damaged != vector.Damaged {
				t.Fatalf("%q, %d damaged", events, damaged)
			}
		})
	}
	twice := append(encode([]byte(`{"s":"ü"}`)), encode([]byte(`{"s":"ü"}`))...)
	if lines := decode(twice); len(lines) != 2 || string(lines[1].event) != `{"s":"ü"}` || lines[1].end != int64(len(twice)) {
		t.Fatalf("%q", lines)
	}
}

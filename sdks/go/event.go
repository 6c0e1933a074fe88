package turnpike

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	eventType     = "turnpike.usage"
	subjectMax    = 256
	methodMax     = 32
	templateMax   = 512
	propertiesMax = 24 // the door takes 32 members, the call's own among them
	wholeMax      = int64(1_000_000_000_000)
	instantLayout = "2006-01-02T15:04:05.000Z"
)

// Call is what is known of a call once it is answered. Nothing of Request is sent.
type Call struct {
	Request       *http.Request
	Method        string
	Template      string
	Status        int
	RequestBytes  int64
	ResponseBytes int64
	Duration      time.Duration
}

// Usage says how a call counts. Properties are whole numbers that a meter may add.
type Usage struct {
	Quantity   int64
	Meter      string
	Properties map[string]int64
}

// errUsage: the app's own functions returned what cannot become an event; the text says which part.
type errUsage string

func (problem errUsage) Error() string { return string(problem) }

type event struct {
	SpecVersion string         `json:"specversion"`
	ID          string         `json:"id"`
	Source      string         `json:"source"`
	Type        string         `json:"type"`
	Subject     string         `json:"subject"`
	Time        string         `json:"time"`
	Data        map[string]any `json:"data"`
}

// build returns an event as JSON.
func build(call Call, usage Usage, source, subject, id string, now time.Time) ([]byte, error) {
	if err := checkText("the subject", subject, subjectMax); err != nil {
		return nil, err
	}
	data, err := dataOf(call, usage)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err = encoder.Encode(event{"1.0", id, source, eventType, subject, now.UTC().Format(instantLayout), data})
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}

func dataOf(call Call, usage Usage) (map[string]any, error) {
	if err := checkWhole("quantity", usage.Quantity); err != nil {
		return nil, err
	}
	data := map[string]any{
		"quantity":      usage.Quantity,
		"status":        min(max(call.Status, 100), 599),
		"method":        clean(call.Method, methodMax),
		"requestBytes":  figure(call.RequestBytes),
		"responseBytes": figure(call.ResponseBytes),
		"durationMs":    figure(call.Duration.Milliseconds()),
	}
	if call.Template != "" {
		data["template"] = clean(call.Template, templateMax)
	}
	if usage.Meter != "" {
		if err := checkText("meter", usage.Meter, 64); err != nil {
			return nil, err
		}
		data["meter"] = usage.Meter
	}
	if len(usage.Properties) > propertiesMax {
		return nil, errUsage(fmt.Sprintf("usage has more than %d properties", propertiesMax))
	}
	for name, value := range usage.Properties {
		if err := checkText("a property's name", name, 64); err != nil {
			return nil, err
		}
		if err := checkWhole("property "+name, value); err != nil {
			return nil, err
		}
		if _, taken := data[name]; !taken {
			data[name] = value
		}
	}
	return data, nil
}

// clean returns a text that the door takes: no NUL, valid Unicode, cut to its length in characters.
func clean(text string, longest int) string {
	good := strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "?")
	if utf8.RuneCountInString(good) <= longest {
		return good
	}
	return string([]rune(good)[:longest])
}

func checkText(name, value string, longest int) error {
	if value == "" || clean(value, longest) != value {
		return errUsage(fmt.Sprintf("%s must be a text of 1 to %d characters without NUL", name, longest))
	}
	return nil
}

func checkWhole(name string, value int64) error {
	if value < 0 || value > wholeMax {
		return errUsage(fmt.Sprintf("%s must be a whole number from 0 to %d", name, wholeMax))
	}
	return nil
}

func figure(value int64) int64 { return min(max(value, 0), wholeMax) }

// newID returns a random UUID (version 4).
func newID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails on the systems Go supports
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}

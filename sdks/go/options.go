package turnpike

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	eventsPath    = "/v1/events"
	spoolBytesMin = 64 * 1024
	day           = 24 * time.Hour
)

// Options says where usage goes and whose it is. URL, Key (or KeyFunc), Source and Subject have to be given; the rest has defaults.
type Options struct {
	URL     string        // the collector's address
	Key     string        // the sender's key, tps_...
	KeyFunc func() string // instead of Key, where it may change
	Source  string        // the source of the key, or one below it

	// Subject returns the subscription id behind a request; empty: not counted. A handler further in may say it with SetSubject.
	Subject func(*http.Request) string
	// Usage says how a call counts; false: not at all. Nil: once for all meters of the plan.
	Usage func(Call) (Usage, bool)
	// Template returns the URL template; nil: the pattern of http.ServeMux, or what SetTemplate said.
	Template func(*http.Request) string

	SpoolFolder   string        // TURNPIKE_SPOOL_DIR, else turnpike-spool
	SpoolBytesMax int64         // 1 GiB
	SpoolAgeMax   time.Duration // 34 days: the door refuses what is older than 35
	Durability    string        // "disk", or "process"
	WhenFull      string        // "block", or "drop"
	Wait          time.Duration // 5 s: how long an answer waits for the disk

	MemoryEventsMax   int           // 10,000
	RejectedBytesMax  int64         // 10 MiB
	BatchEventsMax    int           // 500
	BatchBytesMax     int           // 512 KiB
	Flush             time.Duration // 1 s between two small batches
	Timeout           time.Duration // 30 s
	Backoff           time.Duration // 0.5 s
	BackoffMax        time.Duration // 60 s
	UnauthorizedPause time.Duration // 60 s
	Shutdown          time.Duration // 5 s

	Clock      func() time.Time
	Client     *http.Client // for a proxy or certificates of your own; redirects are never followed
	OnRejected func(event []byte, reason, message string)
	OnDropped  func(events int)
	OnError    func(kind, problem string)
}

func (given Options) complete() (Options, error) {
	options := given
	orElse(&options.SpoolFolder, os.Getenv("TURNPIKE_SPOOL_DIR"))
	orElse(&options.SpoolFolder, "turnpike-spool")
	orElse(&options.SpoolBytesMax, 1<<30)
	orElse(&options.SpoolAgeMax, 34*day)
	orElse(&options.Durability, "disk")
	orElse(&options.WhenFull, "block")
	orElse(&options.Wait, 5*time.Second)
	orElse(&options.MemoryEventsMax, 10_000)
	orElse(&options.RejectedBytesMax, 10<<20)
	orElse(&options.BatchEventsMax, 500)
	orElse(&options.BatchBytesMax, 512*1024)
	orElse(&options.Flush, time.Second)
	orElse(&options.Timeout, 30*time.Second)
	orElse(&options.Backoff, 500*time.Millisecond)
	orElse(&options.BackoffMax, time.Minute)
	orElse(&options.UnauthorizedPause, time.Minute)
	orElse(&options.Shutdown, 5*time.Second)
	if options.Clock == nil {
		options.Clock = time.Now
	}
	if options.KeyFunc == nil {
		options.KeyFunc = func() string { return given.Key }
	}
	return options, options.check()
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (options Options) check() error {
	address, err := url.Parse(options.URL)
	if err != nil || (address.Scheme != "http" && address.Scheme != "https") || address.Host == "" || address.RawQuery != "" || address.Fragment != "" {
		return errors.New("turnpike: URL must be the collector's address, e.g. https://usage.example.com")
	}
	switch {
	case strings.TrimSpace(options.KeyFunc()) == "" || strings.ContainsFunc(options.KeyFunc(), func(r rune) bool { return r < 33 || r > 126 }):
		return errors.New("turnpike: Key must be the sender's key (tps_...)")
	case options.Source == "" || len(options.Source) > 256 || strings.ContainsAny(options.Source, " \t\r\n\x00"):
		return errors.New("turnpike: Source must be the source of the sender's key, or one below it, e.g. /gateways/one")
	case options.Subject == nil:
		return errors.New("turnpike: Subject must be a function from the request to its subscription id")
	case options.SpoolBytesMax < spoolBytesMin:
		return fmt.Errorf("turnpike: SpoolBytesMax must be at least %d", spoolBytesMin)
	case options.BatchEventsMax < 1 || options.BatchEventsMax > 1000:
		return errors.New("turnpike: BatchEventsMax must lie between 1 and 1000, which is what the door takes at once")
	case options.Durability != "disk" && options.Durability != "process":
		return errors.New("turnpike: Durability is disk or process")
	case options.WhenFull != "block" && options.WhenFull != "drop":
		return errors.New("turnpike: WhenFull is block or drop")
	}
	return options.checkFolder()
}

func (options Options) checkFolder() error {
	folder := options.SpoolFolder
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("turnpike: SpoolFolder %s cannot be made, name one that outlives the process: %w", folder, err)
	}
	probe := filepath.Join(folder, ".writable-"+newWriterID())
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return fmt.Errorf("turnpike: SpoolFolder %s is not writable, give the app's user the right or name another: %w", folder, err)
	}
	if err := os.Remove(probe); err != nil {
		return fmt.Errorf("turnpike: SpoolFolder %s: %w", folder, err)
	}
	if len(socketPath(folder, newWriterID())) > socketPathMax {
		return fmt.Errorf("turnpike: SpoolFolder %s is too long for a socket's address: name a shorter one", folder)
	}
	return nil
}

func (options Options) address() string {
	base := strings.TrimRight(options.URL, "/")
	if strings.HasSuffix(base, eventsPath) {
		return base
	}
	return base + eventsPath
}

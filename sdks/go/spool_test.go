package turnpike

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func body(id int) []byte {
	return fmt.Appendf(nil, `{"id":"%d","subject":"sub-1","time":"%s","data":{}}`, id, time.Now().UTC().Format(instantLayout))
}

func bodies(ids ...int) [][]byte {
	var found [][]byte
	for _, id := range ids {
		found = append(found, body(id))
	}
	return found
}

func openSpool(t *testing.T, folder string, bytesMax int64) *spool {
	t.Helper()
	s := newSpool(folder, bytesMax, true)
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	return s
}

func read(t *testing.T, s *spool, events int) batch {
	t.Helper()
	found, err := s.read(events, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func ids(t *testing.T, folder string) string {
	t.Helper()
	var found []string
	for _, one := range spooled(t, folder) {
		found = append(found, one.ID)
	}
	return strings.Join(found, " ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsStoredIsReadInOrderAndGoneOnlyOnceItWasTaken(t *testing.T) {
	s := openSpool(t, shortFolder(t), 1<<30)
	must(t, s.append(bodies(1, 2, 3)))
	first := read(t, s, 2)
	if len(first.events) != 2 || !first.more || len(read(t, s, 2).events) != 2 {
		t.Fatalf("%q", first.events)
	}
	first.take()
	must(t, s.append(bodies(4)))
	second := read(t, s, 10)
	if len(second.events) != 2 || ids(t, s.folder) != "1 2 3 4" {
		t.Fatalf("%q", second.events)
	}
	second.take()
	if len(read(t, s, 10).events) != 0 || ids(t, s.folder) != "" || s.bytes != 0 {
		t.Fatal("what was taken is still there")
	}
}

func TestABatchEndsAtItsSizeButHoldsAtLeastOne(t *testing.T) {
	s := openSpool(t, shortFolder(t), 1<<30)
	must(t, s.append(bodies(1, 2, 3)))
	for bytes, events := range map[int]int{2*len(body(1)) + 30: 2, 1: 1} {
		found, err := s.read(10, bytes)
		if err != nil || len(found.events) != events {
			t.Errorf("%d bytes: %d events, %v", bytes, len(found.events), err)
		}
	}
}

func TestAFullSpoolSaysSoStoresNothingOfTheGroupAndTakesAgainOnceThereIsRoom(t *testing.T) {
	s := openSpool(t, shortFolder(t), 500)
	must(t, s.append(bodies(1, 2, 3)))
	if err := s.append(bodies(4, 5, 6, 7)); !errors.Is(err, errSpoolFull) || ids(t, s.folder) != "1 2 3" {
		t.Fatal(err)
	}
	for found := read(t, s, 10); len(found.events) > 0; found = read(t, s, 10) {
		found.take()
	}
	must(t, s.append(bodies(4, 5, 6)))
}

func TestAWriteThatFailsLeavesNothingBehindAndTheNextIsWhole(t *testing.T) {
	s := openSpool(t, shortFolder(t), 1<<30)
	must(t, s.append(bodies(1)))
	_, err := s.file.WriteString("98e2581a {\"id\"") // half a line is out
	must(t, err)
	s.undo()
	must(t, s.append(bodies(2)))
	must(t, s.file.Close()) // and now nothing can be written
	if s.append(bodies(3)) == nil {
		t.Fatal("a write to a closed file succeeded")
	}
	must(t, s.append(bodies(4)))
	if found := ids(t, s.folder); found != "1 2 4" {
		t.Fatal(found)
	}
}

// TestOtherProcess is not a test: it is the process that the next one starts.
func TestOtherProcess(t *testing.T) {
	folder := os.Getenv("TURNPIKE_OTHER")
	if folder == "" {
		t.Skip("started by another test")
	}
	s := newSpool(folder, 1<<30, true)
	must(t, s.append(bodies(7)))
	fmt.Println("stored")
	time.Sleep(time.Minute)
}

func TestSegmentsOfTheDeadAreTakenOverThoseOfTheLivingAreNot(t *testing.T) {
	folder := shortFolder(t)
	other := exec.Command(os.Args[0], "-test.run=^TestOtherProcess$")
	other.Env = append(os.Environ(), "TURNPIKE_OTHER="+folder)
	output, err := other.StdoutPipe()
	must(t, err)
	must(t, other.Start())
	_, err = output.Read(make([]byte, 7))
	must(t, err)
	s := openSpool(t, folder, 1<<30)
	must(t, other.Process.Signal(syscall.SIGSTOP))
	must(t, s.adopt())
	if len(read(t, s, 10).events) != 0 {
		t.Fatal("a stopped process is not dead")
	}
	must(t, other.Process.Kill())
	_ = other.Wait()
	second := openSpool(t, folder, 1<<30)
	var both sync.WaitGroup // two want it: one gets it
	for _, one := range []*spool{s, second} {
		both.Add(1)
		go func() {
			defer both.Done()
			if err := one.adopt(); err != nil {
				t.Error(err)
			}
		}()
	}
	both.Wait()
	if count := len(read(t, s, 10).events) + len(read(t, second, 10).events); count != 1 {
		t.Fatalf("%d events", count)
	}
	if sockets, _ := filepath.Glob(filepath.Join(folder, "*.sock")); len(sockets) != 2 {
		t.Fatalf("%v", sockets)
	}
}

func TestATornEndAndDamagedLinesDoNotHideWhatIsWhole(t *testing.T) {
	folder := shortFolder(t)
	text := append(encode(body(1)), "ffffffff {\"id\":\"damaged\"}\n"...)
	text = append(append(text, encode(body(2))...), encode(body(3))[:20]...)
	must(t, os.WriteFile(filepath.Join(folder, "0123456789abcdef-00000001.seg"), text, 0o600))
	s := openSpool(t, folder, 1<<30)
	found := read(t, s, 10)
	if len(found.events) != 2 || len(found.damaged) != 1 {
		t.Fatalf("%q %q", found.events, found.damaged)
	}
	found.take()
	if len(read(t, s, 10).events) != 0 || ids(t, folder) != "" {
		t.Fatal("the segment is still there")
	}
}

func TestWhatRequestsRecordAtOnceIsStoredTogether(t *testing.T) {
	complete, err := awayOptions(t).complete()
	must(t, err)
	var groups []int
	told := newReports(complete)
	w := newWriter(func(group [][]byte) error {
		groups = append(groups, len(group))
		time.Sleep(5 * time.Millisecond)
		return nil
	}, complete, told)
	var all sync.WaitGroup
	for range 200 {
		all.Add(1)
		go func() {
			defer all.Done()
			w.put([]byte("{}"))
		}()
	}
	all.Wait()
	w.stop(time.Second)
	if told.copy().Spooled != 200 || len(groups) > 50 {
		t.Fatalf("%v", groups)
	}
}

func TestEventsThatWaitedForTooLongAreSetAsideNotLost(t *testing.T) {
	options := awayOptions(t)
	var reasons []string
	options.OnRejected = func(_ []byte, reason, _ string) { reasons = append(reasons, reason) }
	options.RejectedBytesMax = 400
	complete, err := options.complete()
	must(t, err)
	s := openSpool(t, options.SpoolFolder, 1<<30)
	old := []byte(`{"id":"1","subject":"sub-1","time":"2020-01-01T00:00:00.000Z","data":{}}`)
	must(t, s.append([][]byte{old, old, old}))
	told := newReports(complete)
	_, _, err = newSender(s, complete, told).turn()
	must(t, err)
	if !reflect.DeepEqual(reasons, []string{expiredReason, expiredReason, expiredReason}) || told.copy().Rejected != 3 {
		t.Fatalf("%v", reasons)
	}
	text, err := os.ReadFile(filepath.Join(options.SpoolFolder, rejectedFile))
	must(t, err)
	if !strings.Contains(string(text), expiredReason) || len(text) > 400 {
		t.Fatalf("%d bytes: %s", len(text), text)
	}
}

// refusing is a door that refuses what is ahead of its clock, and counts how often it saw each event.
func refusing(t *testing.T, now func() time.Time, seen map[string]int) *httptest.Server {
	t.Helper()
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(r.Body)
		}
		var events []event
		_ = json.NewDecoder(body).Decode(&events)
		results := []map[string]string{}
		for _, one := range events {
			seen[one.ID]++
			if at, _ := time.Parse(time.RFC3339, one.Time); at.After(now().Add(5 * time.Minute)) {
				results = append(results, map[string]string{"status": "rejected", "reason": aheadReason})
			} else {
				results = append(results, map[string]string{"status": "accepted"})
			}
		}
		w.Header().Set("Date", now().UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(map[string]any{"results": results})
	}))
	t.Cleanup(door.Close)
	return door
}

func at(id int, when time.Time) []byte {
	return fmt.Appendf(nil, `{"id":"%d","subject":"sub-1","time":"%s","data":{}}`, id, when.UTC().Format(instantLayout))
}

func TestOneEventWithATimeAheadWaitsAndStandsInNobodysWay(t *testing.T) {
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	seen := map[string]int{}
	options := awayOptions(t)
	options.URL, options.BatchEventsMax = refusing(t, now, seen).URL, 5
	complete, err := options.complete()
	must(t, err)
	told := newReports(complete)
	s := openSpool(t, options.SpoolFolder, 1<<30)
	must(t, s.append([][]byte{at(1, time.Now().Add(30*day)), at(2, time.Now().Add(400*day))}))
	for id := 3; id < 43; id++ {
		must(t, s.append(bodies(id)))
	}
	turns := func(s *spool, accepted int64, state string) {
		t.Helper()
		sender := newSender(s, complete, told)
		for range 12 {
			if _, _, err := sender.turn(); err != nil {
				t.Fatal(err)
			}
		}
		if stats := told.copy(); stats.Accepted != accepted || stats.Rejected != 1 || stats.State != state {
			t.Fatalf("%+v", stats)
		}
	}
	turns(s, 40, "clock_ahead")
	if found := ids(t, s.folder); found != "1" || seen["1"] != 1 || seen["2"] != 1 {
		t.Fatalf("%s in the spool, %v", found, seen)
	}
	s.held[0].due = time.Now()
	turns(s, 40, "clock_ahead")
	if seen["1"] != 2 || s.bytes != int64(len(encode(at(1, time.Now())))) {
		t.Fatalf("%v, %d bytes", seen, s.bytes)
	}
	must(t, s.close()) // as after a crash: another process finds it
	ahead.Store(int64(30 * day))
	turns(openSpool(t, s.folder, 1<<30), 41, "idle")
	if found := ids(t, s.folder); found != "" {
		t.Fatal(found)
	}
}

func TestWhatIsAheadGathersInOneSegmentThatIsDueWithItsFirst(t *testing.T) {
	s := openSpool(t, shortFolder(t), 1<<30)
	must(t, s.append(bodies(1)))
	now := time.Now()
	must(t, s.hold(bodies(2), now.Add(time.Hour)))
	must(t, s.hold(bodies(3), now.Add(time.Minute)))
	must(t, s.hold(bodies(4), now.Add(time.Hour)))
	if len(s.held) != 1 || !s.held[0].due.Equal(now.Add(time.Minute)) || ids(t, s.folder) != "1 2 3 4" {
		t.Fatalf("%v, %s", s.held, ids(t, s.folder))
	}
	must(t, s.append(bodies(5)))
	s.held[0].due = now
	var order []string
	for found := read(t, s, 10); len(found.events) > 0; found = read(t, s, 10) {
		order = append(order, fmt.Sprint(len(found.events)))
		found.take()
	}
	if ids(t, s.folder) != "" || s.bytes != 0 || strings.Join(order, " ") != "3 2" {
		t.Fatalf("%s, %d, %v", ids(t, s.folder), s.bytes, order)
	}
}

// full makes every write to a file fail as on a full disk.
func full(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	must(t, os.Symlink("/dev/full", path))
}

func TestAFullDiskKeepsNothingFromBeingSentAndWhatCannotBeKeptIsTold(t *testing.T) {
	options := awayOptions(t)
	var told, problems []string
	options.URL = refusing(t, time.Now, map[string]int{}).URL
	options.OnRejected = func(_ []byte, reason, _ string) { told = append(told, reason) }
	options.OnError = func(kind, _ string) { problems = append(problems, kind) }
	complete, err := options.complete()
	must(t, err)
	s := openSpool(t, options.SpoolFolder, 1<<30)
	must(t, s.append([][]byte{at(1, time.Now()), at(2, time.Now().Add(30*day)), at(3, time.Now().Add(400*day))}))
	full(t, filepath.Join(s.folder, rejectedFile))
	full(t, filepath.Join(s.folder, s.writer+"-00000002.seg"))
	stats := newReports(complete)
	if _, _, err := newSender(s, complete, stats).turn(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(told, []string{aheadReason, aheadReason}) || stats.copy().Accepted != 1 || stats.copy().Rejected != 2 {
		t.Fatalf("%v, %+v", told, stats.copy())
	}
	if !reflect.DeepEqual(problems, []string{"rejected", "ahead", "rejected"}) || len(read(t, s, 10).events) != 0 {
		t.Fatalf("%v", problems)
	}
}

func TestASegmentThatSomebodyDeletedIsToldAndHidesNoOther(t *testing.T) {
	s := openSpool(t, shortFolder(t), 1<<30)
	must(t, s.append(bodies(1)))
	must(t, os.Remove(s.active.path))
	if _, err := s.read(10, 1<<20); err == nil || !strings.Contains(err.Error(), "was deleted") {
		t.Fatal(err)
	}
	must(t, s.append(bodies(2)))
	if found := read(t, s, 10); len(found.events) != 1 || s.bytes != int64(len(encode(body(2)))) {
		t.Fatalf("%q, %d bytes", found.events, s.bytes)
	}
}

func TestAPanicOfTheAppsOwnFunctionsDoesNotEndTheApp(t *testing.T) {
	options := awayOptions(t)
	options.Clock = func() time.Time { panic("no clock") }
	s := openSpool(t, options.SpoolFolder, 1<<30)
	must(t, s.append(bodies(1)))
	complete, err := options.complete()
	must(t, err)
	if _, _, err := newSender(s, complete, newReports(complete)).calmTurn(); err == nil {
		t.Fatal("no error")
	}
}

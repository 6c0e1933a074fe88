package turnpike

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

const segmentBytesMax = 1 << 20

var (
	segmentName = regexp.MustCompile(`^([0-9a-f]{16})-\d{8}\.seg$`)
	// errSpoolFull: the spool has reached its size, or the disk has no room.
	errSpoolFull = errors.New("the spool is full, or the disk is")
)

// spool is a folder of append-only segments. Each process writes its own, sends its own, and takes over those of the dead.
type spool struct {
	folder       string
	writer       string
	bytesMax     int64
	segmentBytes int64
	toDisk       bool

	mutex    sync.Mutex
	opened   bool
	hide     func() error
	number   int
	bytes    int64
	segments []*segment // what this process has to send, oldest first
	active   *segment   // the one it writes
	file     *os.File
	held     []*heldSegment // what is ahead of the door's clock
}

type segment struct {
	path         string
	length, read int64
	sealed       bool
}

// batch is what was read; take is called once all of it is answered.
type batch struct {
	events, damaged [][]byte
	more            bool
	take            func()
}

func newSpool(folder string, bytesMax int64, toDisk bool) *spool {
	return &spool{folder: folder, writer: newWriterID(), bytesMax: bytesMax, segmentBytes: min(segmentBytesMax, bytesMax/8), toDisk: toDisk}
}

// open is called before anything else, by whoever comes first; after a failure it may be called again.
func (s *spool) open() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.openLocked()
}

func (s *spool) openLocked() error {
	if s.opened {
		return nil
	}
	if s.hide == nil {
		hide, err := showAlive(s.folder, s.writer)
		if err != nil {
			return err
		}
		s.hide = hide
	}
	s.opened = true
	return s.adoptLocked()
}

// append stores all events of a group, durably; after an error none counts as stored.
func (s *spool) append(events [][]byte) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err := s.openLocked(); err != nil {
		return err
	}
	var text []byte
	for _, body := range events {
		text = append(text, encode(body)...)
	}
	size := int64(len(text))
	if s.bytes+size > s.bytesMax {
		return errSpoolFull
	}
	if err := s.write(text); err != nil {
		s.undo()
		if isFull(err) {
			return errSpoolFull
		}
		return err
	}
	s.active.length += size
	s.bytes += size
	if s.active.length >= s.segmentBytes {
		return s.seal()
	}
	return nil
}

// read returns the oldest events, at least one where there is any.
func (s *spool) read(eventsMax, bytesMax int) (batch, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.release(time.Now())
	for len(s.segments) > 0 {
		first := s.segments[0]
		lines, err := linesOf(first)
		if errors.Is(err, fs.ErrNotExist) {
			s.forget(first)
			return batch{}, fmt.Errorf("a segment with %d bytes of usage was deleted by somebody else: %s", first.length-first.read, filepath.Base(first.path))
		}
		if err != nil {
			return batch{}, err
		}
		if len(lines) > 0 {
			return s.batchOf(first, lines, eventsMax, bytesMax), nil
		}
		if finished, err := s.finish(first); err != nil || !finished {
			return batch{}, err
		}
	}
	return batch{}, nil
}

// adopt takes over what dead processes left, and measures the folder.
func (s *spool) adopt() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.adoptLocked()
}

func (s *spool) adoptLocked() error {
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return err
	}
	s.bytes = 0
	others := map[string][]string{}
	for _, entry := range entries {
		match := segmentName.FindStringSubmatch(entry.Name())
		if match == nil {
			continue
		}
		s.bytes += sizeOf(filepath.Join(s.folder, entry.Name()))
		if match[1] != s.writer {
			others[match[1]] = append(others[match[1]], entry.Name())
		}
	}
	for writer, names := range others {
		if isAlive(s.folder, writer) {
			continue
		}
		if err := s.takeOver(names); err != nil {
			return err
		}
		bury(s.folder, writer)
	}
	return nil
}

func (s *spool) takeOver(names []string) error {
	var taken []*segment
	for _, name := range names {
		path := s.next()
		if err := os.Rename(filepath.Join(s.folder, name), path); errors.Is(err, fs.ErrNotExist) {
			continue // another process was faster
		} else if err != nil {
			return err
		}
		taken = append(taken, &segment{path: path, length: sizeOf(path), sealed: true})
	}
	s.segments = slices.Insert(s.segments, 0, taken...)
	return nil
}

func (s *spool) close() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var problems []error
	if s.file != nil {
		problems = append(problems, s.seal())
	}
	if s.hide != nil {
		problems = append(problems, s.hide())
		s.hide, s.opened = nil, false
	}
	return errors.Join(problems...)
}

func (s *spool) next() string {
	s.number++
	return filepath.Join(s.folder, fmt.Sprintf("%s-%08d.seg", s.writer, s.number))
}

func (s *spool) write(text []byte) error {
	if s.active == nil {
		if err := s.begin(); err != nil {
			return err
		}
	}
	if _, err := s.file.Write(text); err != nil {
		return err
	}
	if s.toDisk {
		return s.file.Sync()
	}
	return nil
}

func (s *spool) begin() error {
	path := s.next()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	s.file, s.active = file, &segment{path: path}
	s.segments = append(s.segments, s.active)
	if s.toDisk {
		return syncFolder(s.folder)
	}
	return nil
}

// undo: after a failed write what may stand behind the good part is cut off, and the segment gets no more.
func (s *spool) undo() {
	if s.active != nil {
		_ = s.file.Truncate(s.active.length)
		_ = s.seal()
	}
}

func (s *spool) seal() error {
	file := s.file
	s.active.sealed = true
	s.active, s.file = nil, nil
	return file.Close()
}

func (s *spool) batchOf(first *segment, lines []line, eventsMax, bytesMax int) batch {
	found := batch{more: len(s.segments) > 1}
	size, end := 0, int64(0)
	for count, one := range lines {
		size += len(one.raw)
		if count > 0 && (count >= eventsMax || size > bytesMax) {
			found.more = true
			break
		}
		if one.event != nil {
			found.events = append(found.events, one.event)
		} else {
			found.damaged = append(found.damaged, one.raw)
		}
		end = one.end
	}
	found.take = func() {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		first.read += end
	}
	return found
}

// finish deletes a segment that is sent to its end; false: it is empty and being written. One with content is closed first.
func (s *spool) finish(sent *segment) (bool, error) {
	if sent == s.active {
		if sent.length == 0 {
			return false, nil
		}
		if err := s.seal(); err != nil {
			return false, err
		}
	}
	if err := os.Remove(sent.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	s.segments = s.segments[1:]
	s.bytes -= sent.length
	return true, nil
}

// forget: a segment that is no longer there hides none of the others.
func (s *spool) forget(gone *segment) {
	if gone == s.active {
		_ = s.seal()
	}
	s.segments = s.segments[1:]
	s.bytes -= gone.length
}

package turnpike

import (
	"errors"
	"os"
	"time"
)

// heldSegment has events ahead of the door's clock. On the disk it is a segment like any other: after a crash it is sent at once, and
// held again.
type heldSegment struct {
	segment
	due time.Time
}

// hold stores events that are to be sent again once they are due, durably and beyond any limit: they are in the spool already, and
// leave their old place next.
func (s *spool) hold(events [][]byte, due time.Time) error {
	var text []byte
	for _, body := range events {
		text = append(text, encode(body)...)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	last := len(s.held) - 1
	if last < 0 || s.held[last].length >= s.segmentBytes {
		s.held = append(s.held, &heldSegment{segment: segment{path: s.next(), sealed: true}, due: due})
		last++
	}
	into := s.held[last]
	if err := s.extend(into.path, into.length, text); err != nil {
		if into.length == 0 {
			s.held = s.held[:last]
			_ = os.Remove(into.path)
		}
		return err
	}
	into.length += int64(len(text))
	s.bytes += int64(len(text))
	if due.Before(into.due) {
		into.due = due
	}
	return nil
}

// extend writes behind the good part of a file, or leaves it as it was.
func (s *spool) extend(path string, length int64, text []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(text, length)
	if err == nil && s.toDisk {
		err = file.Sync()
	}
	if err != nil {
		return errors.Join(err, file.Truncate(length), file.Close())
	}
	if err := file.Close(); err != nil || !s.toDisk || length > 0 {
		return err
	}
	return syncFolder(s.folder)
}

// release has what is due sent again, in front of what is being written.
func (s *spool) release(now time.Time) {
	var waiting []*heldSegment
	for _, one := range s.held {
		if one.due.After(now) {
			waiting = append(waiting, one)
			continue
		}
		place := len(s.segments)
		if s.active != nil {
			place--
		}
		s.segments = append(s.segments[:place:place], append([]*segment{&one.segment}, s.segments[place:]...)...)
	}
	s.held = waiting
}

// holds tells whether something waits for the door's clock.
func (s *spool) holds() bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.held) > 0
}

package turnpike

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"
)

const rejectedFile = "rejected.jsonl"

// aside is one event the door refused for good.
type aside struct {
	event           []byte
	reason, message string
}

// keepAside appends refusals to a file beside the segments, durably; those beyond its size are told to the app but not kept.
func keepAside(folder string, refused []aside, bytesMax int64, now time.Time) error {
	file, err := os.OpenFile(filepath.Join(folder, rejectedFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	found, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	room := bytesMax - found.Size()
	var text []byte
	for _, one := range refused {
		line, err := json.Marshal(map[string]any{
			"at": now.UTC().Format(time.RFC3339), "reason": one.reason, "message": one.message, "event": jsonOr(one.event),
		})
		if err != nil {
			return errors.Join(err, file.Close())
		}
		if room -= int64(len(line)) + 1; room >= 0 {
			text = append(append(text, line...), '\n')
		}
	}
	if _, err = file.Write(text); err != nil {
		_ = file.Truncate(found.Size()) // half a line would spoil the next
	}
	return errors.Join(err, file.Sync(), file.Close())
}

//go:build race

package turnpike

// The app of the scenarios is watched for data races as the tests are, and ends at the first.
func init() { watched = []string{"-race"} }

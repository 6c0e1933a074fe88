module turnpike.example/sdks/go

go 1.23

"""The doors that agents (gRPC) and people (REST) come through. Handlers translate, the engine decides."""

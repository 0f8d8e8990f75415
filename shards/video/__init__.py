"""One video file: opening it safely, its facts, its pictures, writing new ones. The only place that knows PyAV."""

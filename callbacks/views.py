"""The callback."""
from django.http import HttpRequest, HttpResponse, JsonResponse
def callback(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"code": 200, "msg": "ok"})
def healthz(request: HttpRequest) -> HttpResponse:
    return JsonResponse({})
readyz = healthz

//! Long lists, a page at a time: what is not needed any more is gone before the next page comes.

use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};
use serde_json::Value;

use super::request::{self, Failed};

/// Objects asked for at a time; a workload is some 10 KB.
const PAGE: u32 = 100;

/// Calls `found` for every object, with its kind (which the items of a list don't say).
///
/// # Errors
/// When a page cannot be had.
pub async fn each(
    api: &Api<DynamicObject>,
    resource: &ApiResource,
    parameters: ListParams,
    mut found: impl FnMut(&Value),
) -> Result<(), Failed> {
    let mut page = parameters.limit(PAGE);
    loop {
        let list = request::get(|| format!("listing {}", resource.plural), api.list(&page)).await?;
        for item in list.items {
            let Ok(mut object) = serde_json::to_value(item) else { continue };
            object["apiVersion"] = resource.api_version.clone().into();
            object["kind"] = resource.kind.clone().into();
            found(&object);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}
